"""Kafka for tests: fresh topics, and librdkafka as the reader and writer that is not the client under test."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from consumer.settings import Settings

PARTITIONS = 4
TIMEOUT_SECONDS = 60.0
_QUIET = {"log_level": 0}
"""Brokers go away on purpose here; librdkafka would tell of each try to reach them."""


@dataclass(frozen=True, slots=True)
class Broker:
    """The one broker of the test session."""

    bootstrap_servers: str


def fresh_settings(bootstrap_servers: str, **chosen: Any) -> Settings:
    """Settings under a prefix and a group that nobody else uses; their topics are still to be made."""
    name = f"test-{secrets.token_hex(6)}"
    ours = {"topic_prefix": name, "group_id": name, "partitions": PARTITIONS}
    return Settings(kafka_bootstrap_servers=bootstrap_servers, **{**ours, **chosen})


@dataclass(frozen=True, slots=True)
class Read:
    """A record as an independent ``read_committed`` consumer saw it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def json(self) -> Any:
        """The value, decoded."""
        return json.loads(self.value or b"null")

    def header(self, name: str) -> bytes | None:
        """The last value under a header name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Written:
    """A record to write as it is: nothing is checked, so that tests can publish what no publisher would."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


def read_topic(bootstrap_servers: str, topic: str, *, isolation_level: str = "read_committed") -> list[Read]:
    """Every record of a topic up to its end as of now, by partition and offset; blocks, bounded by a minute.

    With ``read_committed`` the end is the last stable offset: an open transaction ends the reading before it.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation_level,
            "fetch.wait.max.ms": 20,
            **_QUIET,
        }
    )
    try:
        # asking it for the topic connects it at once; by itself it would look again only after half a second
        partitions = _partitions(consumer.list_topics(topic, timeout=TIMEOUT_SECONDS), topic)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        return sorted(_until_the_end(consumer, partitions), key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def _until_the_end(consumer: Consumer, partitions: int) -> Iterable[Read]:
    # librdkafka says "end of partition" after the last record that read_committed shows, markers included
    ended: set[int] = set()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(ended) < partitions:
        message = consumer.poll(0.5)
        if message is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{partitions - len(ended)} partitions did not end within {TIMEOUT_SECONDS} s")
        elif message.error() is None:
            yield _read(message)
        elif message.error().name() == "_PARTITION_EOF":
            ended.add(message.partition())
        elif not message.error().retriable():
            raise KafkaException(message.error())


def _read(message: Any) -> Read:
    key, value = message.key(), message.value()
    headers = tuple((name, content or b"") for name, content in message.headers() or ())
    return Read(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=None if key is None else key.decode(),
        value=value,
        headers=headers,
    )


def write_records(bootstrap_servers: str, topic: str, records: Iterable[Written]) -> list[tuple[int, int]]:
    """Write records as they are; returns their partitions and offsets in order. Blocks, bounded by a minute.

    Keys are spread like Java's producer spreads them, not by librdkafka's own default.
    """
    places: dict[int, tuple[int, int]] = {}

    def delivered(number: int, error: Any, message: Any) -> None:
        if error is not None:
            raise KafkaException(error)
        places[number] = (message.partition(), message.offset())

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.max.bytes": 100_000_000,
            "queue.buffering.max.messages": 1_000_000,
            **_QUIET,
        }
    )
    producer.list_topics(topic, timeout=TIMEOUT_SECONDS)  # connects it at once
    for number, record in enumerate(records):
        optional: dict[str, Any] = {}
        if record.partition is not None:
            optional["partition"] = record.partition
        if record.timestamp_ms is not None:
            optional["timestamp"] = record.timestamp_ms
        told = partial(delivered, number)
        producer.produce(topic, record.value, record.key, headers=list(record.headers), on_delivery=told, **optional)
        producer.poll(0)
    if left := producer.flush(TIMEOUT_SECONDS):
        raise TimeoutError(f"{left} records were not delivered within {TIMEOUT_SECONDS} s")
    return [places[number] for number in sorted(places)]


def partition_count(bootstrap_servers: str, topic: str) -> int:
    """How many partitions a topic has; raises KafkaException if it does not exist."""
    return _partitions(_admin(bootstrap_servers).list_topics(topic, timeout=TIMEOUT_SECONDS), topic)


def _partitions(cluster: Any, topic: str) -> int:
    found = cluster.topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return len(found.partitions)


def make_topic(
    bootstrap_servers: str, name: str, partitions: int = PARTITIONS, config: dict[str, str] | None = None
) -> None:
    """Make a topic as somebody else would have made it."""
    admin = _admin(bootstrap_servers)  # kept: the answer comes through it
    made = admin.create_topics([NewTopic(name, partitions, -1, config=config or {})])
    made[name].result(TIMEOUT_SECONDS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while name not in topic_names(bootstrap_servers):  # the controller has made it, the broker may not know yet
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} did not appear within {TIMEOUT_SECONDS} s")


def topic_names(bootstrap_servers: str) -> set[str]:
    """Every topic on the broker."""
    return set(_admin(bootstrap_servers).list_topics(timeout=TIMEOUT_SECONDS).topics)


def _admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers, **_QUIET})
