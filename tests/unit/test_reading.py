"""What a fetch has brought is given poll after poll without a wait; the event loop gets its turns all the same."""

import asyncio
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord
from aiokafka.structs import TopicPartition

from consumer.core.budget import Limits
from consumer.kafka import spending as spending_module
from consumer.kafka.reading import Reader
from consumer.kafka.spending import Spending
from schemas.topics import Topics

TOPICS = Topics("audio")
RECORDS = 5_000


class Fetched:
    """A consumer that has fetched everything; what it gives in one turn of the loop is counted."""

    def __init__(self, topic: str) -> None:
        self._at = TopicPartition(topic, 0)
        self._next = 0
        self._in_this_turn = 0
        self.most_in_a_turn = 0
        self.all_given = asyncio.Event()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def assign(self, _: list[TopicPartition]) -> None: ...

    def assignment(self) -> set[TopicPartition]:
        return {self._at}

    def seek(self, _: TopicPartition, offset: int) -> None:
        assert offset == 0

    async def seek_to_beginning(self, *_: TopicPartition) -> None: ...

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, RECORDS)

    async def position(self, _: TopicPartition) -> int:
        return self._next

    async def getmany(
        self, *_: TopicPartition, timeout_ms: int, max_records: int = RECORDS
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        assert timeout_ms
        if self._next == RECORDS:
            self.all_given.set()
            await asyncio.Event().wait()
        first, self._next = self._next, min(RECORDS, self._next + max_records)
        if not self._in_this_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._in_this_turn += self._next - first
        self.most_in_a_turn = max(self.most_in_a_turn, self._in_this_turn)
        return {self._at: [self._record(offset) for offset in range(first, self._next)]}

    def _next_turn(self) -> None:
        self._in_this_turn = 0

    def _record(self, offset: int) -> ConsumerRecord:
        return ConsumerRecord(self._at.topic, 0, offset, 0, 0, b"key", b"value", None, 3, 5, ())


async def test_a_long_scan_leaves_the_loop_its_turns() -> None:
    fetched = Fetched(TOPICS.metrics)
    reader = Reader(TOPICS, cast("Any", fetched), {TOPICS.metrics: 1})
    read = [record.offset async for record in reader.scan(await reader.starts(TOPICS.metrics))]
    assert len(read) == RECORDS
    assert fetched.most_in_a_turn <= 500


async def test_the_budgets_of_the_past_are_read_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = Fetched(TOPICS.budget)
    monkeypatch.setattr(spending_module, "AIOKafkaConsumer", lambda **_: fetched)
    spending = Spending(Limits(1, None, {}), 1, topic=TOPICS.budget, group_id="group")
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks, spending.following({}, tasks):
        await fetched.all_given.wait()
    assert fetched.most_in_a_turn <= 500
