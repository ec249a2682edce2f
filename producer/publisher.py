"""The Publisher: one call from a recording's address to an audio event on its topic.

    async with Publisher("localhost:9092") as publisher:
        receipt = await publisher.publish("meeting.wav", language="en")

Local files are hashed, so that equal recordings meet in one partition and are heard once.
"""

import asyncio
import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from opentelemetry import trace
from opentelemetry.semconv.schemas import Schemas
from pydantic import ValidationError

from producer.errors import PublishError
from producer.partitions import partition_counts
from producer.tracing import sending, sent_to
from producer.walk import is_address
from schemas.codec import encode
from schemas.models import AudioEvent, utc_now
from schemas.topics import Topics, digest_partition

MAX_EVENT_BYTES = 1_048_576
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an event was written, confirmed by all in-sync brokers."""

    event: AudioEvent
    topic: str
    partition: int
    offset: int

    @property
    def event_id(self) -> str:
        return self.event.event_id


class Publisher:
    """An idempotent producer of audio events; ``connection`` goes to aiokafka as it is (TLS, SASL).

    Calls may run side by side. ``max_event_bytes`` should be the input topic's own limit.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        topic_prefix: str = "audio",
        hash_files: bool = True,
        max_event_bytes: int = MAX_EVENT_BYTES,
        timeout_seconds: float = TIMEOUT_SECONDS,
        **connection: Any,
    ) -> None:
        self._connection = {"bootstrap_servers": bootstrap_servers, **connection}
        self._topic = Topics(topic_prefix).events
        self._hash_files = hash_files
        self._max_event_bytes = max_event_bytes
        self._timeout_seconds = timeout_seconds
        self._partitions = 0
        self._producer: AIOKafkaProducer | None = None
        self._tracer = trace.get_tracer("earwitness.producer", version("earwitness"), schema_url=Schemas.V1_40_0.value)

    async def __aenter__(self) -> Self:
        counts = await partition_counts(self._connection, [self._topic], timeout_seconds=self._timeout_seconds)
        self._partitions = counts[self._topic]
        producer = AIOKafkaProducer(
            **self._connection,
            enable_idempotence=True,
            acks="all",
            linger_ms=5,
            max_request_size=self._max_event_bytes,
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await producer.start()
        except BaseException as error:
            await producer.stop()
            if isinstance(error, KafkaError | TimeoutError):
                servers = self._connection["bootstrap_servers"]
                raise PublishError(f"Kafka at {servers} takes no producer: {str(error) or 'time-out'}") from error
            raise
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        producer, self._producer = self._started(), None
        await producer.stop()

    async def publish(
        self,
        source: str | os.PathLike[str],
        *,
        event_id: str | None = None,
        tenant: str = "default",
        language: str | None = None,
        critical: bool = False,
        defer: bool = False,
        deadline_seconds: float | None = None,
        reference_text: str | None = None,
        metadata: Mapping[str, str] | None = None,
        sha256: str | None = None,
    ) -> Receipt:
        """Publish one recording: a path of this machine, or an address (``https://``, ``s3://``, ...).

        Paths become absolute ``file://`` addresses and are hashed unless ``sha256`` is given or the publisher was
        made with ``hash_files=False``; addresses are never fetched here. Without an ``event_id`` a random one
        (UUID 4) is chosen. Publishing the same event twice makes two records, and so two outcomes; the second costs
        nothing. Raises PublishError.
        """
        uri, digest = await self._located(os.fspath(source), sha256)
        try:
            event = AudioEvent.model_validate(
                {
                    "event_id": event_id or str(uuid.uuid4()),
                    "uri": uri,
                    "sha256": digest,
                    "tenant": tenant,
                    "language": language,
                    "critical": critical,
                    "defer": defer,
                    "deadline_seconds": deadline_seconds,
                    "reference_text": reference_text,
                    "metadata": metadata or {},
                    "published_at": utc_now(),
                }
            )
        except ValidationError as error:
            faults = (
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
            )
            raise PublishError(f"{source}: not a valid event: {'; '.join(faults)}") from error
        return await self.publish_event(event)

    async def publish_event(self, event: AudioEvent) -> Receipt:
        """Publish an event as it is, traced; returns when all in-sync brokers have it. Raises PublishError."""
        key = event.sha256 or event.event_id
        with sending(self._tracer, self._topic, key, event.event_id) as (span, headers):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    written = await self._send(event, key, headers)
            except TimeoutError as error:
                raise PublishError(
                    f"event {event.event_id}: no confirmation within {self._timeout_seconds:g} s; it may be on the "
                    "topic or not: look for its outcome before publishing it again"
                ) from error
            except KafkaError as error:
                raise PublishError(f"event {event.event_id}: {_explained(error, self._topic)}") from error
            sent_to(span, written.partition, written.offset)
        return Receipt(event, self._topic, written.partition, written.offset)

    async def _send(self, event: AudioEvent, key: str, headers: list[tuple[str, bytes]]) -> Any:
        producer = self._started()
        partition = None
        if event.sha256 is not None:
            # said explicitly: this placement is what dedup rests on, not a partitioner's default
            partition = digest_partition(event.sha256, self._partitions)
        value, key_bytes = encode(event), key.encode()
        return await (await producer.send(self._topic, value, key_bytes, partition=partition, headers=headers))

    async def _located(self, source: str, sha256: str | None) -> tuple[str, str | None]:
        if is_address(source):
            return source, sha256
        path = Path(os.path.abspath(source))  # noqa: PTH100 (resolve() would follow links away from the named place)
        if sha256 is None and self._hash_files:
            sha256 = await asyncio.to_thread(file_digest, path)
        elif not path.is_file():
            raise PublishError(f"{path}: no such file")
        return path.as_uri(), sha256

    def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise PublishError("the publisher is not open: use `async with Publisher(...)`")
        return self._producer


def file_digest(path: Path) -> str:
    """SHA-256 of a file in lower-case hex, streamed. Raises PublishError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror}") from error


def _explained(error: KafkaError, topic: str) -> str:
    if isinstance(error, MessageSizeTooLargeError):
        return f"the event is larger than {topic} takes; shorten reference_text or metadata"
    return str(error) or type(error).__name__
