"""What a run of the fault bench does, decided beforehand: pure, and the same for the same seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import TypeVar

T = TypeVar("T")


class Kind(StrEnum):
    """What the adversary can do."""

    KILL = "kill"
    """kill -9 of one service process."""
    KILL_ALL = "kill-all"
    """kill -9 of every service process at once."""
    CRASH = "crash"
    """kill -9 at a named point of the code."""
    FREEZE = "freeze"
    """SIGSTOP for longer than the session and the transaction time-out, then SIGCONT: a zombie."""
    LEAVE = "leave"
    """SIGTERM, and a new process."""
    JOIN = "join"
    """One process more, for a while."""
    STEAL = "steal"
    """Somebody else takes a lane's transactional id."""
    DECODER = "decoder"
    """kill -9 of a decoder child."""
    BROKER = "broker"
    """A broker dies and comes back; each in turn."""
    GROUP_COORDINATOR = "group-coordinator"
    """The broker dies that coordinates the group."""
    TRANSACTION_COORDINATOR = "transaction-coordinator"
    """The broker dies that coordinates a lane's transactions."""
    LATENCY = "latency"
    """A process's requests and answers are late."""
    STALL = "stall"
    """Nothing flows between a process and the brokers, then everything does."""
    HALF_OPEN = "half-open"
    """A process's requests arrive, the answers never; nobody hangs up."""
    RESET = "reset"
    """A process's connections are torn down again and again."""
    LATE_END_TXN = "late-end-txn"
    """A process's requests to end a transaction arrive when it has long given them up."""
    ENGINE_KILL = "engine-kill"
    """kill -9 of an engine child, as the kernel does when memory is short."""
    ENGINE_HANG = "engine-hang"
    """An engine child stands still."""
    ENGINE_MEMORY = "engine-memory"
    """An engine child gets no more memory."""
    API_429 = "api-429"
    """The API asks everyone to slow down."""
    API_503 = "api-503"
    API_HANG = "api-hang"
    """The API takes requests and never answers."""
    DISK_FULL = "disk-full"
    """No room in a process's state folder."""


class Point(StrEnum):
    """Where in the code a service process can be told to die."""

    BEFORE_SEND = "before-send"
    AFTER_SEND = "after-send"
    BEFORE_OFFSETS = "before-offsets"
    BEFORE_COMMIT = "before-commit"
    DURING_COMMIT = "during-commit"
    AFTER_COMMIT = "after-commit"
    DURING_RESTORE = "during-restore"
    DURING_OPENING = "during-opening"
    DURING_REVOKE = "during-revoke"
    BEFORE_READ_BACK = "before-read-back"
    """After a commit whose answer was lost: between the fence and the look at what is committed."""


class Shape(StrEnum):
    """What kind of event it is, and so what must become of it."""

    KEYED = "keyed"
    """With its digest, in the digest's partition."""
    MISPLACED = "misplaced"
    """With its digest, in any partition: it has to move."""
    UNDIGESTED = "undigested"
    """Without a digest: it is fetched and moves."""
    NOT_JSON = "not-json"
    NO_EVENT = "no-event"
    ABSENT = "absent"
    CORRUPT = "corrupt"
    MISMATCH = "mismatch"
    """It claims a digest that its recording has not."""
    TOXIC = "toxic"
    """Its recording ends the engine child each time."""
    KILLER = "killer"
    """It ends the service process each time."""


REASONS = {
    Shape.NOT_JSON: "invalid_json",
    Shape.NO_EVENT: "invalid_event",
    Shape.ABSENT: "not_found",
    Shape.CORRUPT: "corrupt_audio",
    Shape.MISMATCH: "digest_mismatch",
    Shape.TOXIC: "poison",
    Shape.KILLER: "poison",
}
"""The dead letter that each bad event must become; a transcript is due to all others."""

PROCESS_KINDS = (Kind.KILL, Kind.KILL_ALL, Kind.CRASH, Kind.FREEZE, Kind.LEAVE, Kind.JOIN, Kind.STEAL, Kind.DECODER)
BROKER_KINDS = (Kind.BROKER, Kind.GROUP_COORDINATOR, Kind.TRANSACTION_COORDINATOR)
NETWORK_KINDS = (Kind.LATENCY, Kind.STALL, Kind.HALF_OPEN, Kind.RESET, Kind.LATE_END_TXN)
ENGINE_KINDS = (Kind.ENGINE_KILL, Kind.ENGINE_HANG, Kind.ENGINE_MEMORY)
API_KINDS = (Kind.API_429, Kind.API_503, Kind.API_HANG)
HOLDS = {
    Kind.FREEZE: (7.0, 10.0),
    Kind.JOIN: (4.0, 9.0),
    Kind.DISK_FULL: (3.0, 6.0),
    Kind.STALL: (7.0, 12.0),
    **dict.fromkeys((Kind.LATENCY, Kind.HALF_OPEN, Kind.RESET, Kind.LATE_END_TXN), (3.0, 8.0)),
    **dict.fromkeys(BROKER_KINDS, (2.0, 6.0)),
    **dict.fromkeys((Kind.ENGINE_HANG, Kind.ENGINE_MEMORY), (4.0, 6.0)),
    **dict.fromkeys(API_KINDS, (2.0, 5.0)),
}
"""Seconds that a fault lasts, at least and at most."""
WARM_SECONDS = 3.0
CALM_SECONDS = 10.0
"""At the end of the load no new fault begins, so that the recovery from the last ones is seen."""
BAD_SHARE = 0.02
DUPLICATE_SHARE = 0.5
TENANTS = ("acme", "zenith")
GOOD = (Shape.KEYED, Shape.KEYED, Shape.MISPLACED, Shape.UNDIGESTED)
BAD = tuple(shape for shape in REASONS if shape not in (Shape.KILLER, Shape.TOXIC))


@dataclass(frozen=True, slots=True)
class Fault:
    """One deed of the adversary; ``target`` is a process, a partition or a broker, as its kind demands."""

    at_seconds: float
    kind: Kind
    target: int
    point: Point | None = None
    nth: int = 1
    """At which passing of the point."""
    hold_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """One record of the load."""

    at_seconds: float
    event_id: str
    shape: Shape
    recording: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Shares:
    """What the run has to work with."""

    seconds: float
    processes: int = 2
    nodes: int = 1
    partitions: int = 8
    events_per_second: float = 30.0
    fault_every_seconds: float = 6.0
    killers: int = 1
    toxic: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run."""

    seed: int
    shares: Shares
    faults: tuple[Fault, ...]
    events: tuple[PlannedEvent, ...]

    @property
    def recordings(self) -> set[int]:
        """Those that the events name."""
        return {event.recording for event in self.events}


def make_plan(seed: int, shares: Shares, kinds: Sequence[Kind]) -> Plan:
    """The same plan for the same arguments; a kind named twice comes twice as often."""
    return Plan(seed, shares, tuple(_faults(seed, shares, kinds)), tuple(_events(seed, shares)))


def _faults(seed: int, shares: Shares, kinds: Sequence[Kind]) -> list[Fault]:
    chance = random.Random(f"faults {seed}")
    faults: list[Fault] = []
    count = max(0, int((shares.seconds - CALM_SECONDS - WARM_SECONDS) / shares.fault_every_seconds)) if kinds else 0
    points, brokers = cycle(_shuffled(chance, list(Point))), cycle(range(1, shares.nodes + 1))
    for number, kind in enumerate(islice(_in_rounds(chance, kinds), count)):
        at = WARM_SECONDS + (number + chance.random()) * shares.fault_every_seconds
        hold = chance.uniform(*HOLDS[kind]) if kind in HOLDS else 0.0
        point = next(points) if kind is Kind.CRASH else None
        nth = chance.randint(1, 8) if point in _OFTEN_PASSED else 1
        faults.append(Fault(round(at, 3), kind, _target(chance, kind, shares, brokers), point, nth, round(hold, 3)))
    return faults


_OFTEN_PASSED = {*Point} - {Point.DURING_RESTORE, Point.DURING_OPENING, Point.DURING_REVOKE}


def _target(chance: random.Random, kind: Kind, shares: Shares, brokers: "cycle[int]") -> int:
    if kind is Kind.BROKER:
        return next(brokers)
    of_partitions = kind in (Kind.STEAL, Kind.TRANSACTION_COORDINATOR)
    return chance.randrange(shares.partitions if of_partitions else shares.processes)


def _in_rounds(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while True:
        yield from _shuffled(chance, list(kinds))


def _shuffled(chance: random.Random, items: list[T]) -> list[T]:
    chance.shuffle(items)
    return items


def _events(seed: int, shares: Shares) -> list[PlannedEvent]:
    chance = random.Random(f"events {seed}")
    count = int(shares.seconds * shares.events_per_second)
    deadly = {
        int(count * (first + 0.6 * number / max(1, many))): shape
        for shape, many, first in ((Shape.KILLER, shares.killers, 0.15), (Shape.TOXIC, shares.toxic, 0.2))
        for number in range(many)
    }
    events, heard, toxic = [], 0, set[int]()
    for number in range(count):
        shape = chance.choice(BAD) if chance.random() < BAD_SHARE else chance.choice(GOOD)
        shape = deadly.get(number, shape)
        again = heard > 0 and shape in GOOD and chance.random() < DUPLICATE_SHARE
        # mostly of late, so that equal recordings are often under way at the same moment
        recording = max(0, heard - 1 - int(chance.expovariate(0.1))) if again else heard
        if recording in toxic:
            again, recording = False, heard
        toxic |= {recording} if shape is Shape.TOXIC else set()
        heard += not again
        events.append(
            PlannedEvent(
                round(number / shares.events_per_second, 3),
                f"{shape}-{number}",
                shape,
                recording,
                TENANTS[recording % len(TENANTS)],
            )
        )
    return events
