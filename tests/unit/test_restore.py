"""A slice is filled a few hundred records at a time, however many a fetch has brought."""

from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from aiokafka.structs import TopicPartition

from consumer.dedup import restore as module
from consumer.dedup.restore import restore

PARTITION = TopicPartition("audio.dedup", 0)
RECORDS = 5_000


class Fetched:
    """A consumer that has fetched everything already: asking it costs no wait."""

    def __init__(self, **_: Any) -> None:
        self._next = 0

    async def start(self) -> None: ...

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == [PARTITION]

    async def seek_to_beginning(self, *_: TopicPartition) -> None: ...

    async def stop(self) -> None: ...

    async def getmany(
        self, *_: TopicPartition, timeout_ms: int, max_records: int = RECORDS
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        assert timeout_ms
        first, self._next = self._next, min(RECORDS, self._next + max_records)
        return {PARTITION: [_record(offset) for offset in range(first, self._next)]}


class Slice:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def apply(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        self.sizes.append(len(list(records)))


async def test_what_one_fetch_has_brought_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AIOKafkaConsumer", Fetched)
    into = Slice()
    await restore({}, PARTITION, RECORDS - 1, into, group_id="group")
    assert sum(into.sizes) == RECORDS
    assert max(into.sizes) <= 500


def _record(offset: int) -> ConsumerRecord:
    return ConsumerRecord(PARTITION.topic, 0, offset, 0, 0, b"key", b"value", None, 3, 5, ())
