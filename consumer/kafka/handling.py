"""Handles dead letters of one partition, each exactly once: what a replay publishes and its mark are one transaction.

Whoever handles letters of a partition first takes its transactional id. That fences any other run and ends what it left
open, so the marks read next are the whole truth, and a commit of the other run can only fail.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumer.core.outcomes import Write
from consumer.core.review import Letter, LetterId, Mark, NotReplayableError
from consumer.errors import FencedError, ServiceError
from consumer.kafka.client import connection
from consumer.kafka.commits import BACKOFF
from consumer.kafka.transaction import DoubtfulError, LaneProducer
from consumer.settings import Settings
from schemas.codec import encode
from schemas.topics import outcome_bytes

TIMEOUT_SECONDS = 60.0
"""How long Kafka may be silent, or keep a commit in doubt, before a command gives up."""
GONE = "there is no such dead letter (any more)"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a letter: the mark, and the record to publish with it if any."""

    mark: Mark
    write: Write | None = None


Decide = Callable[[Letter, str], Decision]
"""Takes the letter and the run's name. Raises NotReplayableError."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of one named letter."""

    id: LetterId
    mark: Mark | None = None
    """Committed; None: the letter was left alone, and ``refused`` says why."""
    by_us: bool = False
    """False with a mark: it was handled before."""
    refused: str = ""


ReadMarks = Callable[[int], Awaitable[dict[LetterId, Mark]]]
"""The marks of a partition, read anew."""


class Taken:
    """One partition's letters while this run owns them."""

    def __init__(
        self, review_topic: str, partition: int, run: str, producer: LaneProducer, read_marks: ReadMarks
    ) -> None:
        self._review_topic = review_topic
        self._partition = partition
        self._run = run
        self._producer = producer
        self._read_marks = read_marks
        self._marks: dict[LetterId, Mark] | None = None
        """None: not known, the partition must be taken (again) first."""

    async def settle(
        self, ids: Sequence[LetterId], letters: Mapping[LetterId, Letter], decide: Decide
    ) -> list[Handled]:
        """All of these letters in one transaction, those left out that are handled, gone or refused."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._settle(ids, letters, decide)
        except FencedError as error:
            raise ServiceError(
                f"another run is handling the dead letters of partition {self._partition}: "
                "see with `earwitness dead-letters list` what is left, and run this again"
            ) from error
        except TimeoutError as error:
            raise ServiceError("Kafka did not commit in time; run this again: nothing is done twice") from error

    async def _settle(
        self, ids: Sequence[LetterId], letters: Mapping[LetterId, Letter], decide: Decide
    ) -> list[Handled]:
        failures = 0
        doubt: DoubtfulError | None = None
        while True:
            marks = await self._take()
            results, decisions = self._sort_out(ids, letters, marks, decide)
            if decisions and doubt is not None and not doubt.retriable:
                raise ServiceError(f"letters {ids[0]} to {ids[-1]} cannot be handled: {doubt}") from doubt
            try:
                await self._commit(decisions)
            except DoubtfulError as error:
                # it may have been committed all the same: only the marks, read after a new fence, can tell
                doubt, self._marks, failures = error, None, failures + 1
                await asyncio.sleep(random.random() * BACKOFF.ceiling(failures))  # noqa: S311 (jitter)
                continue
            marks.update((letter, decision.mark) for letter, decision in decisions.items())
            done = [Handled(letter, decision.mark, by_us=True) for letter, decision in decisions.items()]
            return sorted([*results, *done], key=lambda handled: handled.id)

    async def _take(self) -> dict[LetterId, Mark]:
        if self._marks is None:
            await self._producer.fence()
            self._marks = await self._read_marks(self._partition)
        return self._marks

    def _sort_out(
        self,
        ids: Sequence[LetterId],
        letters: Mapping[LetterId, Letter],
        marks: Mapping[LetterId, Mark],
        decide: Decide,
    ) -> tuple[list[Handled], dict[LetterId, Decision]]:
        results: list[Handled] = []
        decisions: dict[LetterId, Decision] = {}
        for id_ in ids:
            letter, mark = letters.get(id_), marks.get(id_)
            if letter is None:
                results.append(Handled(id_, refused=GONE))
            elif mark is not None and mark.covers(letter):
                results.append(Handled(id_, mark, by_us=mark.run == self._run))
            else:
                try:
                    decisions[id_] = decide(letter, self._run)
                except NotReplayableError as error:
                    results.append(Handled(id_, refused=str(error)))
        return results, decisions

    async def _commit(self, decisions: Mapping[LetterId, Decision]) -> None:
        if not decisions:
            return
        writes = [decision.write for decision in decisions.values() if decision.write is not None]
        for letter, decision in decisions.items():
            key = str(letter).encode("ascii")
            writes.append(Write(self._review_topic, key, encode(decision.mark), self._partition))
        await self._producer.commit(writes, None)


@asynccontextmanager
async def taking(settings: Settings, partition: int, run: str, read_marks: ReadMarks) -> AsyncIterator[Taken]:
    """A partition to settle letters of, for the length of the block; it is taken when the first ones are settled."""
    topic = settings.topics.review
    producer = LaneProducer(
        connection(settings),
        # of the topics, not of the group: services of two groups may share the dead letters
        transactional_id=f"{topic}.{partition}",
        group_id=settings.group_id,
        timeout_seconds=settings.transaction_timeout_ms / 1000,
        max_request_bytes=outcome_bytes(settings.max_event_bytes),
    )
    try:
        yield Taken(topic, partition, run, producer, read_marks)
    finally:
        await producer.stop()
