"""Reads what is committed on topics, from a moment or an offset on; joins no group and commits nothing."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from pydantic import ValidationError

from consumer.errors import ServiceError
from consumer.kafka.client import connection
from consumer.kafka.topics import partition_counts
from consumer.settings import Settings
from schemas.models import TranscriptionMetric
from schemas.topics import Topics

SILENCE_SECONDS = 60.0
"""How long Kafka may give nothing before a reading that has an end is given up."""
_POLL_MS = 50
"""Short: a transaction marker at the end gives no record, only the position says that it was passed."""
_POLL_RECORDS = 500
"""As many at once as leave the event loop responsive."""
_EARLIER_MS = 60_000
"""A record is written after the moment that it tells of; clocks may differ by so much."""

log = logging.getLogger(__name__)


class Reader:
    """One reading at a time. Made by ``reading``."""

    def __init__(self, topics: Topics, consumer: AIOKafkaConsumer, counts: Mapping[str, int]) -> None:
        self._topics = topics
        self._consumer = consumer
        self.counts = counts
        """Every topic with its partition count."""
        self.unreadable = 0
        """Records on the metrics topic that are no metric events."""

    def partitions(self, topic: str) -> list[TopicPartition]:
        """All of a topic's that exists."""
        return [TopicPartition(topic, number) for number in range(self.counts[topic])]

    async def starts(self, topic: str, since_ms: int | None = None) -> dict[TopicPartition, int]:
        """Where to begin so that nothing of ``since_ms`` or later is missed; None: with the first record."""
        every = self.partitions(topic)
        if since_ms is None:
            return dict.fromkeys(every, 0)
        # the ends first: what comes meanwhile lies above them
        ends = await self._consumer.end_offsets(every)
        found = await self._consumer.offsets_for_times(dict.fromkeys(every, max(0, since_ms - _EARLIER_MS)))
        return {at: ends[at] if place is None else place.offset for at, place in found.items()}

    async def bounds(self, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        """The first and the next offset of each partition."""
        every = self.partitions(topic)
        firsts, ends = await self._consumer.beginning_offsets(every), await self._consumer.end_offsets(every)
        return {at: (firsts[at], ends[at]) for at in every}

    async def scan(
        self, starts: Mapping[TopicPartition, int], stop: int | None = None
    ) -> AsyncGenerator[ConsumerRecord, None]:
        """Committed records from the starts to the ends as of now, or below ``stop``.

        Raises ServiceError when Kafka gives no more for a minute.
        """
        loop = asyncio.get_running_loop()
        ends, behind = await self._begin(starts, stop)
        last = loop.time()
        while behind:
            if records := await self._poll(behind):
                last = loop.time()
            for record in records:
                if record.offset < ends[TopicPartition(record.topic, record.partition)]:
                    yield record
            behind = await self._left(behind, ends)
            if loop.time() - last > SILENCE_SECONDS:
                raise ServiceError(f"Kafka gave no more of {', '.join(sorted({at.topic for at in behind}))} in time")

    async def follow(
        self, starts: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[tuple[list[ConsumerRecord], bool], None]:
        """Batches without end, some of them empty, and whether the ends as they were at first have been reached."""
        ends, behind = await self._begin(starts)
        while True:
            records = await self._poll(behind)
            behind = await self._left(behind, ends)
            yield records, not behind

    async def metrics(self, since: datetime, until: datetime) -> AsyncGenerator[TranscriptionMetric, None]:
        """Metric events by when they were completed: from ``since`` on and before ``until``, in no order.

        What is none is counted in ``unreadable``.
        """
        starts = await self.starts(self._topics.metrics, to_ms(since))
        async with aclosing(self.scan(starts)) as records:
            async for record in records:
                metric = metric_of(record)
                if metric is None:
                    self.unreadable += 1
                elif since <= metric.completed_at < until:
                    yield metric

    async def _begin(
        self, starts: Mapping[TopicPartition, int], stop: int | None = None
    ) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
        """Seek; gives the ends, and which partitions are not there yet."""
        if not starts:
            return {}, set()
        firsts, ends = (
            await self._consumer.beginning_offsets(list(starts)),
            await self._consumer.end_offsets(list(starts)),
        )
        if stop is not None:
            ends = {at: min(end, stop) for at, end in ends.items()}
        self._consumer.assign(list(starts))
        for at, start in starts.items():
            self._consumer.seek(at, max(start, firsts[at]))
        return ends, {at for at, start in starts.items() if max(start, firsts[at]) < ends[at]}

    async def _poll(self, behind: set[TopicPartition]) -> list[ConsumerRecord]:
        """Of those partitions, or of all where none is behind."""
        await asyncio.sleep(0)  # what a fetch has brought already is given without a wait, poll after poll
        given = await self._consumer.getmany(*behind, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        return [record for records in given.values() for record in records]

    async def _left(self, behind: set[TopicPartition], ends: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        # transaction markers move the position too, and give no record
        return {at for at in behind if await self._consumer.position(at) < ends[at]}


@asynccontextmanager
async def reading(settings: Settings, *needed: str) -> AsyncIterator[Reader]:
    """A reader for the length of the block. Raises ServiceError when a topic is missing, or Kafka fails."""
    counts = await partition_counts(settings)
    if missing := [topic for topic in needed if topic not in counts]:
        raise ServiceError(f"{', '.join(missing)} is missing: run `earwitness topics create`")
    consumer = AIOKafkaConsumer(
        **connection(settings),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        # a fetch that waits at one end holds up the next scan
        fetch_max_wait_ms=_POLL_MS,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            await consumer.start()
        yield Reader(settings.topics, consumer, counts)
    except (KafkaError, TimeoutError) as error:
        raise ServiceError(f"Kafka at {settings.kafka_bootstrap_servers}: {error!r}; run this again") from error
    finally:
        await consumer.stop()


def metric_of(record: ConsumerRecord) -> TranscriptionMetric | None:
    """The metric event in a record; None, and a line in the log, where it is none."""
    try:
        return TranscriptionMetric.model_validate_json(record.value or b"")
    except ValidationError:
        log.warning("unreadable_metric %s/%d/%d", record.topic, record.partition, record.offset)
        return None


def to_ms(moment: datetime) -> int:
    """Kafka's way of saying it; from 1970 on."""
    return max(0, round(moment.timestamp() * 1000))
