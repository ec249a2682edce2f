"""The dead letters and the marks of those that were handled: reads both, and hands letters to be handled in good order.

The marks lie in a compacted topic of their own, one partition for each of the letters'. A group's committed offsets
would need no topic, but Kafka forgets those of a group without members after a week, and then every letter would look
untouched.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import groupby
from typing import Any

from aiokafka.structs import TopicPartition
from pydantic import ValidationError

from consumer.core.model import Record
from consumer.core.review import Letter, LetterId, Mark
from consumer.errors import ServiceError
from consumer.kafka.handling import GONE, Decide, Handled, taking
from consumer.kafka.reading import Reader, reading
from consumer.kafka.topics import make_if_missing, partition_counts
from consumer.settings import Settings
from schemas.topics import TopicSpec

_TOGETHER = 100
"""Letters in one transaction at most."""
_TOGETHER_BYTES = 8 * 1024 * 1024
"""Their size, give or take the last one."""


class Desk:
    """The dead letters and their marks; one operation at a time. Made by ``review_desk``."""

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._reader = reader
        self._partitions = reader.counts[self._topics.dead_letters]
        self._marked = reader.counts.get(self._topics.review)
        self.run = secrets.token_hex(4)

    async def letters(self, since_ms: int | None = None) -> AsyncGenerator[Letter, None]:
        """Every letter up to the present end, those written before ``since_ms`` left out as far as that is quick."""
        starts = await self._reader.starts(self._topics.dead_letters, since_ms)
        async for record in self._reader.scan(starts):
            yield Letter.of(_record(record))

    async def marks(self, partition: int | None = None) -> dict[LetterId, Mark]:
        """The marks of all letters, or of one partition's. Whole only where nobody else is handling letters."""
        numbers = range(self._marked or 0) if partition is None else [partition] if self._marked else []
        marks: dict[LetterId, Mark] = {}
        async for record in self._reader.scan({TopicPartition(self._topics.review, number): 0 for number in numbers}):
            try:
                letter = LetterId.parse((record.key or b"").decode("ascii", "replace"))
                if record.value is None:
                    marks.pop(letter, None)
                else:
                    marks[letter] = Mark.model_validate_json(record.value)
            except (ValidationError, ValueError) as error:
                place = f"{record.topic}/{record.partition}/{record.offset}"
                raise ServiceError(f"{place} is no mark of a handled dead letter: was it written by others?") from error
        return marks

    async def find(self, letter: LetterId) -> Letter | None:
        """One letter; None where there is none (any more)."""
        if letter.partition >= self._partitions:
            return None
        at = TopicPartition(self._topics.dead_letters, letter.partition)
        found = [
            Letter.of(_record(record)) async for record in self._reader.scan({at: letter.offset}, letter.offset + 1)
        ]
        return found[0] if found else None

    async def handle(self, ids: Iterable[LetterId], decide: Decide) -> AsyncGenerator[Handled, None]:
        """Handle letters, each exactly once; tells of each when that is certain. Closing it early is safe.

        Raises ServiceError when another run takes over, or when Kafka fails: what was told of is done.
        """
        wanted = sorted(set(ids))
        for letter in wanted:
            if letter.partition >= self._partitions:
                yield Handled(letter, refused=GONE)
        await self._make_room()
        for partition, group in groupby(wanted, key=lambda letter: letter.partition):
            if partition < self._partitions:
                async with taking(self._settings, partition, self.run, self.marks) as taken:
                    left = list(group)
                    while left:
                        letters, count = await self._some(left)
                        for handled in await taken.settle(left[:count], letters, decide):
                            yield handled
                        left = left[count:]

    async def _make_room(self) -> None:
        if self._marked is None:
            spec = TopicSpec(self._topics.review, self._partitions, {"cleanup.policy": "compact"})
            await make_if_missing(self._settings, spec)
            self._marked = (await partition_counts(self._settings))[spec.name]
        if self._marked < self._partitions:
            raise ServiceError(
                f"{self._topics.review} has {self._marked} partitions, {self._topics.dead_letters} has "
                f"{self._partitions}: give it as many with kafka-topics.sh --alter"
            )

    async def _some(self, ids: Sequence[LetterId]) -> tuple[dict[LetterId, Letter], int]:
        """Letters of one partition from the first id on, as many as fit a transaction; and how many ids that covers."""
        together = ids[:_TOGETHER]
        at = TopicPartition(self._topics.dead_letters, ids[0].partition)
        letters: dict[LetterId, Letter] = {}
        size_bytes = 0
        async with aclosing(self._reader.scan({at: together[0].offset}, together[-1].offset + 1)) as records:
            async for record in records:
                id_ = LetterId(record.partition, record.offset)
                if id_ in together:
                    letters[id_] = Letter.of(_record(record))
                    size_bytes += len(record.value or b"")
                    if size_bytes >= _TOGETHER_BYTES:
                        return letters, together.index(id_) + 1
        return letters, len(together)


@asynccontextmanager
async def review_desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk for the length of the block. Raises ServiceError when no broker answers or the topic is missing."""
    async with reading(settings, settings.topics.dead_letters) as reader:
        yield Desk(settings, reader)


def _record(record: Any) -> Record:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Record(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)
