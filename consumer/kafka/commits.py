"""A lane's commits: each one numbered, none begun while the fate of the last is unknown.

A commit whose answer never came may have happened, or may still happen: a stray request to end a transaction can end a
*later* one. So after any doubt nothing is begun before a new producer has fenced the old one, and the commit's name
in the committed metadata has told how it ended. (Offsets alone cannot tell: consecutive commits may share one.)
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.core import commit_metadata
from consumer.core.backoff import RetryPolicy
from consumer.core.commit_metadata import CommitMetadata, UnreadableMetadataError
from consumer.core.offsets import CommitPoint
from consumer.core.outcomes import Write
from consumer.core.suspicion import NO_SUSPICION, Suspicion
from consumer.dedup.restore import sentinel_key, started_key
from consumer.errors import FencedError, LaneError
from consumer.kafka.client import may_pass
from consumer.kafka.committed import CommittedOffsets
from consumer.kafka.spending import LaneAccount
from consumer.kafka.transaction import DoubtfulError, LaneProducer, OffsetCommit

log = logging.getLogger(__name__)

BACKOFF = RetryPolicy(first_seconds=0.2, max_seconds=5.0)
_LAST_WORD_SECONDS = 2.0
HOPELESS_AFTER = 3
"""Failures in a row that no waiting mends (a record over the topic's limit, a missing permission)."""


@dataclass(frozen=True, slots=True)
class LastCommit:
    """Where the lane's last owner left it; ``offset`` is None if nobody ever committed."""

    offset: int | None
    metadata: CommitMetadata


class LaneCommits:
    """All writing of one lane goes through here."""

    def __init__(
        self,
        partition: TopicPartition,
        dedup_topic: str,
        group_id: str,
        producer: LaneProducer,
        committed: CommittedOffsets,
        *,
        process: str,
        still_assigned: Callable[[], bool],
        account: LaneAccount | None = None,
    ) -> None:
        """``process`` is a random name of this process, by which it knows its own commits; ``account`` is the lane's
        part of the budgets, where there are any.
        """
        self._partition = partition
        self._dedup_topic = dedup_topic
        self.group_id = group_id
        self._producer = producer
        self._committed = committed
        self._still_assigned = still_assigned
        self._process = process
        self._account = account
        self._account_until = 0
        self._owner = ""
        self._last = CommitMetadata()

    async def take_over(self, also: Sequence[str] = ()) -> list[int]:
        """Fence the previous owner; commit a sentinel to the dedup partition, and to those of the topics ``also``.

        Returns the sentinels' offsets, in this order.

        Raises KafkaError, DoubtfulError, FencedError: nothing is taken over then.
        """
        self._owner = f"{self._process}{secrets.token_hex(3)}"
        # unstable before the fence, but an offset that is there now has been committed once
        started = (await self._committed.read(self._partition)).offset is not None
        await self._producer.fence()
        marks = [self._account.sentinel()] if self._account is not None else []
        marks += [self.started_mark()] if started else []
        key, number = sentinel_key(self.group_id), self._partition.partition
        marks += [Write(topic, key, None, number) for topic in (self._dedup_topic, *also)]
        landed = await self._producer.commit(marks, None)
        self._account_until = landed[0]
        return landed[-1 - len(also) :]

    async def restore_account(self, connection: Mapping[str, Any], progress: Callable[[], None]) -> None:
        """What the lane has spent, and may. The whole truth only after ``take_over``. Raises LaneError."""
        if self._account is not None:
            await self._account.restore(connection, self._account_until, progress)

    def wakes(self, wake: Callable[[], None]) -> None:
        """``wake`` is called when ``is_due`` may have become true."""
        if self._account is not None:
            self._account.wake = wake

    def is_due(self) -> bool:
        """Whether somebody waits for a commit, though there may be no outcome."""
        return self._account is not None and self._account.is_due()

    def started_mark(self) -> Write:
        """Says to later openings that this group has committed an offset here."""
        return Write(self._dedup_topic, started_key(self.group_id), None, self._partition.partition)

    async def read_last(self) -> LastCommit:
        """What is committed. A stable read only after ``take_over``."""
        last = await self._read()
        self._last = last.metadata
        return last

    def died(self, last: CommitMetadata) -> bool:
        """Whether the owner of that commit ended without a last word (and was not this very process)."""
        return bool(last.owner) and not last.clean and not last.owner.startswith(self._process)

    async def _read(self) -> LastCommit:
        committed = await self._committed.read(self._partition)
        if committed.offset is None:
            return LastCommit(None, CommitMetadata())
        try:
            return LastCommit(committed.offset, commit_metadata.decode(committed.metadata, committed.offset))
        except UnreadableMetadataError as error:
            log.error(  # noqa: TRY400 (the text says it all)
                "unreadable_commit_metadata of %s/%d: %s; events settled out of order are settled again",
                *self._partition,
                error,
            )
            return LastCommit(committed.offset, CommitMetadata())

    async def commit(
        self, writes: list[Write], point: CommitPoint, *, clean: bool = False, suspicion: Suspicion = NO_SUSPICION
    ) -> None:
        """Publish the writes and the commit point, all or nothing; returns when that is certain.

        Waits out broker failures (bounded by cancellation). Raises FencedError when another owner has the lane,
        LaneError when no waiting would help.
        """
        number = self._last.commit_number + 1
        metadata = commit_metadata.encode(
            point, commit_number=number, owner=self._owner, clean=clean, suspicion=suspicion
        )
        position = OffsetCommit(self._partition, point.offset, metadata)
        if self._account is not None:
            writes = [*writes, *self._account.writes(closing=clean)]
        hopeless = 0
        while True:
            try:
                await self._producer.commit(writes, position)
                break
            except DoubtfulError as doubt:
                hopeless = 0 if doubt.retriable else hopeless + 1
                if hopeless >= HOPELESS_AFTER:
                    raise LaneError(
                        f"lane {self._partition.partition} cannot commit: {doubt}; check permissions and "
                        "`earwitness topics check`"
                    ) from doubt
                log.warning("commit_in_doubt lane %d: %s", self._partition.partition, doubt)
                if await self._went_through(number):
                    break
        self._last = CommitMetadata(number, self._owner)
        if self._account is not None:
            self._account.confirmed()

    async def say_last_word(self, point: CommitPoint, suspicion: Suspicion) -> None:
        """Commit that the lane closes in order, at once or not at all."""
        try:
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self.commit([], point, clean=True, suspicion=suspicion)
        except (KafkaError, FencedError, LaneError, TimeoutError) as error:
            log.warning("no_last_word of lane %d: %r", self._partition.partition, error)

    async def stop(self) -> None:
        """Let the producer go."""
        if self._account is not None:
            self._account.close()
        await self._producer.stop()

    async def _went_through(self, number: int) -> bool:
        await self._fence_again()
        found = (await self._read()).metadata
        name = (found.owner, found.commit_number)
        if name not in ((self._owner, number), (self._last.owner, self._last.commit_number)):
            raise FencedError(f"somebody else has committed lane {self._partition.partition}")
        log.info("commit_resolved lane %d: %s", self._partition.partition, name == (self._owner, number))
        return name == (self._owner, number)

    async def _fence_again(self) -> None:
        failures = hopeless = 0
        while True:
            if not self._still_assigned():
                raise FencedError(f"lane {self._partition.partition} was lost while its commit was in doubt")
            try:
                await self._producer.fence()
            except KafkaError as error:
                hopeless = 0 if may_pass(error) else hopeless + 1
                if hopeless >= HOPELESS_AFTER:
                    raise LaneError(f"lane {self._partition.partition} cannot fence: {error!r}") from error
            else:
                return
            failures += 1
            await asyncio.sleep(random.random() * BACKOFF.ceiling(failures))  # noqa: S311 (jitter)
