"""Waits for what becomes of events: their transcripts or dead letters.

async with Results("localhost:9092") as results:   # before publishing
    results.expect(event_id)
    ...publish...
    results.no_more()
    async for outcome in results.outcomes():
        ...
"""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from producer.errors import PublishError
from producer.partitions import partition_counts
from schemas.models import DeadLetter, Transcript
from schemas.topics import Topics

START_SECONDS = 60.0
_POLL_MS = 500


class Results:
    """Reads committed outcomes from the ends of their topics on, as they were when the block was entered."""

    def __init__(
        self, bootstrap_servers: str = "localhost:9092", *, topic_prefix: str = "audio", **connection: Any
    ) -> None:
        self._connection = {"bootstrap_servers": bootstrap_servers, **connection}
        self._topics = Topics(topic_prefix)
        self._consumer: AIOKafkaConsumer | None = None
        self._waiting: set[str] = set()
        self._complete = False

    @property
    def waiting(self) -> frozenset[str]:
        """Ids of expected events that have no outcome yet."""
        return frozenset(self._waiting)

    def expect(self, event_id: str) -> None:
        """Wait for this event's outcome; to be called before it is published."""
        self._waiting.add(event_id)

    def no_more(self) -> None:
        """Everything expected is known; ``outcomes`` may end."""
        self._complete = True

    async def __aenter__(self) -> Self:
        wanted = (self._topics.transcripts, self._topics.dead_letters)
        counts = await partition_counts(self._connection, wanted, timeout_seconds=START_SECONDS)
        consumer = AIOKafkaConsumer(
            **self._connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="latest",
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await consumer.start()
                consumer.assign([TopicPartition(topic, number) for topic in wanted for number in range(counts[topic])])
                await consumer.seek_to_end()
        except BaseException as error:
            await consumer.stop()
            if isinstance(error, KafkaError | TimeoutError):
                raise PublishError(f"the outcomes cannot be read: {str(error) or 'time-out'}") from error
            raise
        self._consumer = consumer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def outcomes(self) -> AsyncIterator[Transcript | DeadLetter]:
        """Outcomes of the expected events as they come; ends when all are there and ``no_more`` was said.

        Waits without limit: bound it with ``asyncio.timeout``. Raises PublishError when Kafka fails.
        """
        if self._consumer is None:
            raise PublishError("the results are not open: use `async with Results(...)`")
        while self._waiting or not self._complete:
            try:
                batches = await self._consumer.getmany(timeout_ms=_POLL_MS)
            except KafkaError as error:
                raise PublishError(f"the outcomes cannot be read: {error}") from error
            for record in (record for batch in batches.values() for record in batch):
                outcome = self._wanted(record)
                if outcome is not None:
                    yield outcome

    def _wanted(self, record: Any) -> Transcript | DeadLetter | None:
        event_id = (record.key or b"").decode(errors="replace")
        if event_id not in self._waiting or record.value is None:
            return None
        self._waiting.discard(event_id)
        if record.topic == self._topics.transcripts:
            return Transcript.model_validate_json(record.value)
        return DeadLetter.model_validate_json(record.value)
