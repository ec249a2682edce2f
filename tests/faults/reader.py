"""Reads a topic and a group's lag with librdkafka, ``read_committed``: shares nothing with the service."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

SECONDS = 60.0
PAUSE_SECONDS = 0.2
_MOVING = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS")
"""What is said while the group's coordinator moves to another broker: ask again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A committed record."""

    partition: int
    offset: int
    timestamp: float
    """Seconds since the epoch."""
    key: str | None
    value: Any
    """Decoded JSON; None for a tombstone."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the group is behind in one partition; ``committed`` is negative where it never committed."""

    partition: int
    committed: int
    end: int


class Reader:
    """One connection to look at everything with; every call blocks, bounded."""

    def __init__(self, bootstrap_servers: str, group: str, isolation: str = "read_committed") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def lags(self, topic: str) -> list[Lag]:
        """The group's committed offsets beside the partitions' ends."""
        wanted = [TopicPartition(topic, number) for number in range(self._partitions(topic))]
        return [
            Lag(found.partition, found.offset, self._consumer.get_watermark_offsets(found, timeout=SECONDS)[1])
            for found in self._committed(wanted)
        ]

    def read(self, topic: str) -> list[Seen]:
        """Every committed record up to the end as of now, in each partition's order."""
        count = self._partitions(topic)
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(count)])
        try:
            return sorted(self._until_the_end(count), key=lambda seen: (seen.partition, seen.offset))
        finally:
            self._consumer.unassign()

    def _committed(self, wanted: list[TopicPartition]) -> list[TopicPartition]:
        until = time.monotonic() + SECONDS
        while True:
            try:
                found: list[TopicPartition] = self._consumer.committed(wanted, timeout=SECONDS)
            except KafkaException as error:
                if error.args[0].name() not in _MOVING or time.monotonic() > until:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                return found

    def _partitions(self, topic: str) -> int:
        found = self._consumer.list_topics(topic, timeout=SECONDS).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return len(found.partitions)

    def _until_the_end(self, count: int) -> Iterator[Seen]:
        ended: set[int] = set()
        quiet_until = time.monotonic() + SECONDS
        while len(ended) < count:
            message = self._consumer.poll(0.5)
            if message is None:
                if time.monotonic() > quiet_until:
                    raise TimeoutError(f"{count - len(ended)} partitions did not end: a transaction hangs open")
                continue
            if message.error() is None:
                quiet_until = time.monotonic() + SECONDS
                yield _seen(message)
            elif message.error().name() == "_PARTITION_EOF":
                ended.add(message.partition())
            elif not message.error().retriable():
                raise KafkaException(message.error())


def _seen(message: Any) -> Seen:
    key, value = message.key(), message.value()
    return Seen(
        message.partition(),
        message.offset(),
        message.timestamp()[1] / 1000,
        None if key is None else key.decode(),
        None if value is None else json.loads(value),
    )
