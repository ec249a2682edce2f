"""Publishes the demo's takes and reads what became of each, as any ``read_committed`` consumer would."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from compose.demo_recordings import Take
from consumer.kafka.client import connection
from consumer.settings import Settings
from producer.partitions import partition_counts
from producer.publisher import Publisher, file_digest
from schemas.models import AudioEvent, DeadLetter, Transcript, TranscriptionMetric, utc_now

_POLL_MS = 200
_END_SECONDS = 30.0

Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(slots=True)
class Published:
    """A take on its topic, and everything that the service said about it."""

    take: Take
    event_id: str | None
    """None: the record is no event."""
    place: Place
    transcripts: list[Transcript] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    metrics: list[TranscriptionMetric] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        return bool(self.metrics and (self.transcripts or self.dead_letters))


async def publish(settings: Settings, takes: list[Take]) -> list[Published]:
    """Publish every take under a new event id. Raises PublishError, KafkaError."""
    run = secrets.token_hex(3)
    done = []
    async with Publisher(**connection(settings), topic_prefix=settings.topic_prefix) as publisher:
        for number, take in enumerate(takes, start=1):
            if take.raw is not None:
                done.append(Published(take, None, await _write(settings, take.raw)))
                continue
            receipt = await publisher.publish_event(await _event(take, f"demo-{run}-{number:02}"))
            done.append(Published(take, receipt.event_id, (receipt.topic, receipt.partition, receipt.offset)))
    return done


async def _event(take: Take, event_id: str) -> AudioEvent:
    assert take.path is not None
    return AudioEvent(
        event_id=event_id,
        uri=take.path.absolute().as_uri(),
        sha256=await asyncio.to_thread(file_digest, take.path) if take.with_digest else None,
        reference_text=take.reference,
        metadata={"demo": take.name},
        published_at=utc_now(),
    )


async def _write(settings: Settings, value: bytes) -> Place:
    """What no publisher would publish."""
    async with AIOKafkaProducer(**connection(settings), acks="all") as producer:
        written: Any = await producer.send_and_wait(settings.topics.events, value)
    return written.topic, written.partition, written.offset


class Outcomes:
    """Reads committed outcomes from the ends of their topics on, as they were when ``reading`` was entered."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._topics = settings.topics
        self._of_event: dict[str | None, Published] = {}
        self._of_place: dict[Place, Published] = {}

    def expect(self, published: list[Published]) -> None:
        """What to look for; outcomes of others are left alone."""
        self._of_event = {one.event_id: one for one in published}
        self._of_place = {one.place: one for one in published}

    async def until_settled(self, on_progress: Callable[[int], None]) -> None:
        """Read until everything expected has an outcome and a metric; waits without limit."""
        while True:
            settled = sum(one.is_settled for one in self._of_place.values())
            on_progress(settled)
            if settled == len(self._of_place):
                return
            await self._read()

    async def to_the_end(self) -> None:
        """Read all that there is now, to know that nothing came twice. Raises TimeoutError."""
        partitions = list(self._consumer.assignment())
        async with asyncio.timeout(_END_SECONDS):
            ends = await self._consumer.end_offsets(partitions)
            while [one for one in partitions if await self._consumer.position(one) < ends[one]]:
                await self._read()

    async def _read(self) -> None:
        batches = await self._consumer.getmany(timeout_ms=_POLL_MS)
        for record in (record for batch in batches.values() for record in batch):
            if record.value is not None:
                self._take(record.topic, record.value)

    def _take(self, topic: str, value: bytes) -> None:
        if topic == self._topics.transcripts:
            transcript = Transcript.model_validate_json(value)
            if (published := self._of_event.get(transcript.event_id)) is not None:
                published.transcripts.append(transcript)
        elif topic == self._topics.dead_letters:
            letter = DeadLetter.model_validate_json(value)
            origin = letter.origin
            if (published := self._of_place.get((origin.topic, origin.partition, origin.offset))) is not None:
                published.dead_letters.append(letter)
        else:
            metric = TranscriptionMetric.model_validate_json(value)
            if (published := self._of_event.get(metric.event_id)) is not None:
                published.metrics.append(metric)


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Outcomes]:
    """A reader of everything that is committed from now on."""
    topics = settings.topics
    wanted = (topics.transcripts, topics.dead_letters, topics.metrics)
    counts = await partition_counts(connection(settings), wanted, timeout_seconds=_END_SECONDS)
    consumer = AIOKafkaConsumer(
        **connection(settings),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="latest",
    )
    try:
        async with asyncio.timeout(_END_SECONDS):
            await consumer.start()
            consumer.assign([TopicPartition(topic, number) for topic in wanted for number in range(counts[topic])])
            await consumer.seek_to_end()
        yield Outcomes(consumer, settings)
    finally:
        await consumer.stop()
