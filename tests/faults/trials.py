"""Faults that need a stage of their own: each sets one scene, looks, and says whether the promise held."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.fleet import Fleet, fast_settings, make_topics
from tests.faults.load import Load
from tests.faults.plan import PlannedEvent, Shape
from tests.faults.reader import Reader
from tests.faults.surroundings import Brokers

PARTITIONS = 2
EVENTS = 20
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Trial:
    """How one ended; ``broken`` is empty where the promise held."""

    name: str
    seconds: float
    broken: str = ""


class Scenery:
    """Topics, a load and one process at a time."""

    def __init__(self, kafka: Brokers, folder: Path, name: str) -> None:
        self.name = f"trial-{name}-{os.getpid()}-{time.time_ns() % 10**6}"
        self.servers = kafka.bootstrap_servers
        self.topic = f"{self.name}.events"
        self.load = Load(self.servers, self.topic, folder / "recordings")
        self.settings = fast_settings(self.servers, self.name, PARTITIONS, self.load.folder)
        self.folder = folder
        self._events = [
            PlannedEvent(0.0, f"event-{number}", Shape.KEYED, number, "acme") for number in range(2 * EVENTS)
        ]
        self.load.record(self._events)
        make_topics(self.settings)

    def publish(self, *, again: bool = False) -> None:
        """One half of the events, or the other."""
        self.load.run(self._events[EVENTS:] if again else self._events[:EVENTS])

    async def until(self, true: Callable[[], bool]) -> bool:
        """Look until it is so; whether it became so in time. The looks happen on a thread."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if await asyncio.to_thread(true):
                return True
            await asyncio.sleep(0.2)
        return False

    def settled(self) -> bool:
        """Whether the group has nothing left to do."""
        with self.reading() as reader:
            return all(lag.committed == lag.end for lag in reader.lags(self.topic))

    def reading(self) -> Reader:
        return Reader(self.servers, self.name)

    def transcribed(self) -> list[str]:
        """Event ids with a transcript, in order."""
        with self.reading() as reader:
            return sorted(seen.value["event_id"] for seen in reader.read(f"{self.name}.transcripts"))

    def abort_at_the_end(self, topic: str) -> None:
        """Leave records of an aborted transaction, and its marker, at the end of each partition."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": f"{self.name}.x", "log_level": 0})
        producer.init_transactions(SECONDS)
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(topic, b"{", f"acme/{'0' * 64}/aborted".encode(), partition)
        producer.flush(SECONDS)
        producer.abort_transaction(SECONDS)


async def trailing_markers(scenery: Scenery) -> str:
    """Both logs end in aborted records and markers: restoring ends all the same, and lag reads 0."""
    async with Fleet(scenery.folder, scenery.settings) as fleet:
        fleet.add("first")
        await asyncio.to_thread(scenery.publish)
        if not await scenery.until(scenery.settled):
            return "the events were not settled"
        await fleet.retire("first")
        for topic in (f"{scenery.name}.dedup", scenery.topic):
            await asyncio.to_thread(scenery.abort_at_the_end, topic)
        fleet.add("second")
        if not await scenery.until(lambda: fleet.said("lane_open") >= 2 * PARTITIONS):
            return "the lanes did not open"
        if not await scenery.until(scenery.settled):
            return "lag does not read 0 behind trailing markers"
        await asyncio.to_thread(scenery.publish, again=True)
        if not await scenery.until(scenery.settled):
            return "later events were not settled"
        await fleet.stop()
    done = await asyncio.to_thread(scenery.transcribed)
    return "" if len(done) == len(set(done)) == 2 * EVENTS else f"{len(done)} transcripts of {2 * EVENTS} events"


async def retention_overtook(scenery: Scenery) -> str:
    """Unheard events were deleted: the process says so and ends, and does not go on behind them in silence."""
    async with Fleet(scenery.folder, scenery.settings) as fleet:
        fleet.add("first")
        await asyncio.to_thread(scenery.publish)
        if not await scenery.until(scenery.settled):
            return "the events were not settled"
        await fleet.retire("first")
        await asyncio.to_thread(scenery.publish, again=True)
        before = await asyncio.to_thread(_committed, scenery)
        await asyncio.to_thread(_delete_everything, scenery)
        fleet.add("second")
        if not await scenery.until(lambda: bool(fleet.said("retention has deleted unheard events"))):
            return "nothing was said"
        if not await scenery.until(lambda: any(death.slot == "second" and death.code == 1 for death in fleet.deaths)):
            return "the process went on"
        if await asyncio.to_thread(_committed, scenery) != before:
            return "an offset was committed past events that nobody has heard"
    return ""


def _committed(scenery: Scenery) -> list[int]:
    with scenery.reading() as reader:
        return [lag.committed for lag in reader.lags(scenery.topic)]


def _delete_everything(scenery: Scenery) -> None:
    admin = AdminClient({"bootstrap.servers": scenery.servers, "log_level": 0})
    ends = [TopicPartition(scenery.topic, partition, -1) for partition in range(PARTITIONS)]
    for deleted in admin.delete_records(ends).values():
        deleted.result(SECONDS)


async def offsets_lost(scenery: Scenery) -> str:
    """The group's offsets are gone: the process says so and ends, instead of hearing everything anew."""
    async with Fleet(scenery.folder, scenery.settings) as fleet:
        fleet.add("first")
        await asyncio.to_thread(scenery.publish)
        if not await scenery.until(scenery.settled):
            return "the events were not settled"
        await fleet.retire("first")
        await asyncio.to_thread(_forget_group, scenery)
        fleet.add("second")
        if not await scenery.until(lambda: any(death.slot == "second" and death.code == 1 for death in fleet.deaths)):
            return "the process went on"
        if not fleet.said("is gone, though this group has"):
            return "it did not say why it ended"
    done = await asyncio.to_thread(scenery.transcribed)
    return "" if len(done) == len(set(done)) == EVENTS else f"{len(done)} transcripts of {EVENTS} events"


def _forget_group(scenery: Scenery) -> None:
    admin = AdminClient({"bootstrap.servers": scenery.servers, "log_level": 0})
    for deleted in admin.delete_consumer_groups([scenery.name]).values():
        deleted.result()


TRIALS = {
    "restore with trailing markers": trailing_markers,
    "retention overtook the offset": retention_overtook,
    "committed offsets lost": offsets_lost,
}


async def run_all(kafka: Brokers, folder: Path) -> list[Trial]:
    """Each trial, one after the other."""
    return [await _run(name, kafka, folder / name.replace(" ", "-")) for name in TRIALS]


async def _run(name: str, kafka: Brokers, folder: Path) -> Trial:
    begun = time.monotonic()
    scenery = await asyncio.to_thread(Scenery, kafka, folder, name.split()[0])
    broken = await TRIALS[name](scenery)
    return Trial(name, round(time.monotonic() - begun, 1), broken)
