"""Lanes on real Kafka, with work that finishes when a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from unittest.mock import patch

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition

from consumer.core.model import Record
from consumer.core.outcomes import Moment, Write
from consumer.dedup.store import DedupSlices
from consumer.kafka.client import connection
from consumer.kafka.committed import Committed, CommittedOffsets
from consumer.kafka.intake import Intake
from consumer.kafka.lane import Lane
from consumer.kafka.member import member
from consumer.kafka.spending import Spending
from consumer.settings import Settings
from schemas.topics import Topics

TIMEOUT_SECONDS = 45.0


@dataclass(slots=True)
class Outcome:
    """One transcript-like record for each event: its value is what the event's was."""

    record: Record
    work: "ScriptedWork"
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def offset(self) -> int:
        return self.record.offset

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        key = b"%d/%d" % (self.record.partition, self.record.offset)
        return [Write(topics.transcripts, key, self.work.output(self.record))]

    def confirmed(self, writes: list[Write]) -> None:
        self.work.confirmed.append(self.record)

    def dropped(self) -> None:
        self.work.dropped.append(self.record)


class ScriptedWork:
    """Notes what it is given; events whose value is held wait for ``release``."""

    def __init__(self) -> None:
        self.given: list[Record] = []
        self.confirmed: list[Record] = []
        self.dropped: list[Record] = []
        self.condemned: list[Record] = []
        self.held: set[bytes] = set()
        self.output: Callable[[Record], bytes | None] = lambda record: record.value
        self._moved = asyncio.Event()

    async def settle(self, record: Record) -> Outcome:
        self.given.append(record)
        while record.value in self.held:
            await self._moved.wait()
        return Outcome(record, self)

    async def condemn(self, record: Record) -> Outcome:
        self.condemned.append(record)
        return Outcome(record, self)

    def release(self, *values: bytes) -> None:
        self.held -= set(values) or set(self.held)
        self._moved.set()
        self._moved = asyncio.Event()


@dataclass(slots=True)
class Member:
    """A running group member."""

    intake: Intake
    work: ScriptedWork
    slices: DedupSlices
    running: asyncio.Task[None]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for a state of it; its failure is raised."""
        await until(true, self.running)

    def serving(self) -> set[int]:
        """Partitions whose lanes are open."""
        return {tp.partition for tp, lane in self.intake.lanes.items() if lane.next_offset is not None}


async def until(true: Callable[[], bool], running: asyncio.Task[None] | None = None) -> None:
    """Look until it is so; bounded."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not true():
            if running is not None and running.done():
                running.result()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def joined(
    settings: Settings, work: ScriptedWork | None = None, *, drain: bool = True, spending: Spending | None = None
) -> AsyncIterator[Member]:
    """A member of the group; at the end it drains, or with ``drain=False`` is cut off like a crash: without a word."""
    work, slices, crashes = work or ScriptedWork(), DedupSlices(), not drain
    async with _following(settings, spending), member(settings, slices, lambda _: work, spending=spending) as intake:
        running = asyncio.create_task(intake.run())
        try:
            yield Member(intake, work, slices, running)
        except BaseException:
            drain = False
            raise
        finally:
            if drain:
                intake.drain()
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await running
            else:
                with patch.object(Lane, "_say_last_word", _nothing) if crashes else nullcontext():
                    running.cancel()
                    await asyncio.wait([running])


async def _nothing(*_: object) -> None: ...


@asynccontextmanager
async def _following(settings: Settings, spending: Spending | None) -> AsyncIterator[None]:
    """All lanes' words on the budgets are read, if there are budgets."""
    if spending is None:
        yield
        return
    async with asyncio.TaskGroup() as tasks, spending.following(connection(settings), tasks):
        yield


async def committed(settings: Settings, partition: int = 0) -> Committed:
    """What the group has committed for a partition of its events; stable only when nothing is being committed."""
    client = AIOKafkaClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await client.bootstrap()
    try:
        offsets = CommittedOffsets(client, settings.group_id)
        return await offsets.read(TopicPartition(settings.topics.events, partition))
    finally:
        await client.close()


@asynccontextmanager
async def thief(settings: Settings, partition: int = 0) -> AsyncIterator[AIOKafkaProducer]:
    """Somebody else with a lane's transactional id."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        transactional_id=f"{settings.group_id}.{settings.topics.events}.{partition}",
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()
