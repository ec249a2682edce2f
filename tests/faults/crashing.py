"""The real service, made to die where the adversary says, and to note what it hears.

``python -m tests.faults.crashing`` is ``earwitness serve`` with a hand on its inner functions. While the file that
``FAULTS_CRASH_FILE`` names holds ``<point>:<nth>``, the process kills itself at the nth passing of that point. What it
begins to hear, and when it gets partitions or closes a lane, goes into the file that ``FAULTS_JOURNAL`` names: a line
of JSON each.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import RequestTimedOutError

import consumer.engines.choose as choose
import consumer.kafka.member as member
import consumer.kafka.opening as opening
import consumer.kafka.transaction as transaction
from consumer.cli import main
from consumer.dedup.restore import restore as original_restore
from consumer.engines.hybrid import HybridEngine
from consumer.engines.local import LocalEngine
from consumer.kafka.client import connection as original_connection
from consumer.kafka.commits import LaneCommits
from consumer.kafka.intake import Intake
from consumer.kafka.lane import Lane
from consumer.pipeline import Pipeline
from tests.faults.plan import Point, Shape

CRASH_FILE, JOURNAL, PROCESS_NAME, LOADER = (f"FAULTS_{name}" for name in ("CRASH_FILE", "JOURNAL", "NAME", "LOADER"))
Method = Callable[..., Awaitable[Any]]


class Hand:
    """Kills the process when the armed point has been passed often enough."""

    def __init__(self, crash_file: Path, journal: Path) -> None:
        self._crash_file = crash_file
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._passed: dict[str, int] = {}

    def note(self, what: str, **more: Any) -> None:
        """Write a line that survives the death of the process."""
        line = {"at": time.time(), "pid": os.getpid(), "what": what, **more}
        os.write(self._journal, json.dumps(line).encode() + b"\n")

    def due(self, point: Point) -> bool:
        """Pass a point; whether this is the passing to die at. It disarms, so that the next process lives."""
        try:
            armed = self._crash_file.read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        if armed.partition(":")[0] != point:
            return False
        self._passed[armed] = self._passed.get(armed, 0) + 1
        if self._passed[armed] < int(armed.rpartition(":")[2]):
            return False
        self._crash_file.unlink()
        return True

    def die(self, what: str) -> None:
        """As kill -9 would."""
        self.note("dies", of=what)
        os.kill(os.getpid(), signal.SIGKILL)

    def at(self, point: Point) -> None:
        if self.due(point):
            self.die(point)


def install(hand: Hand) -> None:
    """Put the hand on the service's functions."""
    _on_transactions(hand)
    _on_lanes(hand)
    _on_hearing(hand)


def _on_transactions(hand: Hand) -> None:
    send: Method = transaction._send
    offsets: Method = AIOKafkaProducer.send_offsets_to_transaction
    commit: Method = AIOKafkaProducer.commit_transaction
    fence_again: Method = LaneCommits._fence_again

    async def sending(*args: Any) -> Any:
        hand.at(Point.BEFORE_SEND)
        sent = await send(*args)
        if hand.due(Point.AFTER_SEND):
            await asyncio.wait([sent])  # the record is on the broker, of a transaction that nobody will end
            hand.die(Point.AFTER_SEND)
        return sent

    async def sending_offsets(self: Any, *args: Any) -> Any:
        hand.at(Point.BEFORE_OFFSETS)
        return await offsets(self, *args)

    async def committing(self: Any) -> None:
        hand.at(Point.BEFORE_COMMIT)
        if hand.due(Point.DURING_COMMIT):
            ending = asyncio.ensure_future(commit(self))
            await asyncio.wait([ending], timeout=0.002)
            hand.die(Point.DURING_COMMIT)
        await commit(self)
        hand.at(Point.AFTER_COMMIT)
        if hand.due(Point.BEFORE_READ_BACK):
            hand.note("answer-lost")
            lost.add(1)
            raise RequestTimedOutError("the answer to this commit was lost")

    async def fencing_again(self: Any) -> Any:
        await fence_again(self)
        if lost:
            hand.die(Point.BEFORE_READ_BACK)

    lost: set[int] = set()
    _replace(transaction, "_send", sending)
    _replace(AIOKafkaProducer, "send_offsets_to_transaction", sending_offsets)
    _replace(AIOKafkaProducer, "commit_transaction", committing)
    _replace(LaneCommits, "_fence_again", fencing_again)


def _on_lanes(hand: Hand) -> None:
    restore: Method = original_restore
    read_last: Method = LaneCommits.read_last
    hand_over: Method = Intake._hand_over
    assigned: Method = Intake.on_partitions_assigned
    let_go: Method = Lane._let_go

    async def restoring(connection: Any, partition: Any, until: int, into: Any, **more: Any) -> bool:
        return bool(await restore(connection, partition, until, _Watched(into, hand), **more))

    async def reading_last(self: Any) -> Any:
        hand.at(Point.DURING_OPENING)
        return await read_last(self)

    async def handing_over(self: Any, limit_seconds: float) -> None:
        if self.lanes and not self._draining:
            hand.at(Point.DURING_REVOKE)
        await hand_over(self, limit_seconds)

    async def being_assigned(self: Any, partitions: Any) -> None:
        hand.note("assigned", partitions=sorted(partition.partition for partition in partitions))
        await assigned(self, partitions)

    async def letting_go(self: Any) -> None:
        hand.note("lane-closes", partition=self.partition.partition)
        await let_go(self)

    _replace(opening, "restore", restoring)
    _replace(LaneCommits, "read_last", reading_last)
    _replace(Intake, "_hand_over", handing_over)
    _replace(Intake, "on_partitions_assigned", being_assigned)
    _replace(Lane, "_let_go", letting_go)


class _Watched:
    """A dedup slice that is being restored."""

    def __init__(self, slice_: Any, hand: Hand) -> None:
        self._slice = slice_
        self._hand = hand

    def apply(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._hand.at(Point.DURING_RESTORE)
        self._slice.apply(records)


def _on_hearing(hand: Hand) -> None:
    transcribe: Method = HybridEngine.transcribe
    settle: Method = Pipeline.settle

    async def transcribing(self: Any, recording: Any, wish: Any) -> Any:
        noted: list[str] = []

        def begins() -> None:
            wish.begins()
            if not noted:  # once for all its batches and tries
                noted.append(recording.digest)
                hand.note("hears", digest=recording.digest)

        return await transcribe(self, recording, replace(wish, begins=begins))

    async def settling(self: Any, record: Any) -> Any:
        if f'"event_id": "{Shape.KILLER}'.encode() in (record.value or b""):
            hand.die(Shape.KILLER)
        return await settle(self, record)

    _replace(HybridEngine, "transcribe", transcribing)
    _replace(Pipeline, "settle", settling)


def _replace(owner: Any, name: str, value: Any) -> None:
    getattr(owner, name)  # it must be there: a hook on nothing would prove nothing
    setattr(owner, name, value)


def _on_connections(name: str) -> None:
    """Clients say which process they belong to, so that a proxy can cut off one and not the other."""
    connection: Callable[..., dict[str, Any]] = original_connection
    _replace(member, "connection", lambda settings: {**connection(settings), "client_id": name})


def _on_engines(loader: str) -> None:
    """The engine child loads a model that can be made to die."""
    _replace(choose, "LocalEngine", partial(LocalEngine, loader=loader))


if __name__ == "__main__":
    _on_connections(os.environ[PROCESS_NAME])
    if LOADER in os.environ:
        _on_engines(os.environ[LOADER])
    install(Hand(Path(os.environ[CRASH_FILE]), Path(os.environ[JOURNAL])))
    sys.argv[1:] = ["serve"]
    main()
