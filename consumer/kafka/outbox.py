"""Outcomes of one lane between their decision and their commit."""

import asyncio
from collections import deque
from collections.abc import Iterator

from consumer.core.outcomes import Moment, Write
from consumer.kafka.lane_parts import Decided, LaneParts
from schemas.models import utc_now

_COMMIT_BYTES = 16 * 1024 * 1024
"""What one transaction writes at most, give or take its last outcome."""


class Outbox:
    """Outcomes in hand, in the order in which they were reached."""

    def __init__(self, parts: LaneParts) -> None:
        self._parts = parts
        self._ready: deque[Decided] = deque()
        self._committing: list[Decided] = []
        self._writes: list[list[Write]] = []

    def __len__(self) -> int:
        """Outcomes that no commit has taken yet."""
        return len(self._ready)

    def add(self, decided: Decided) -> None:
        self._ready.append(decided)

    async def take(self) -> list[Write]:
        """What the next transaction writes."""
        settings, size_bytes = self._parts.settings, 0
        while self._ready and len(self._writes) < settings.commit_batch and size_bytes < _COMMIT_BYTES:
            decided = self._ready.popleft()
            self._committing.append(decided)
            moment = Moment(utc_now(), asyncio.get_running_loop().time() - decided.since)
            self._writes.append(decided.writes(settings.topics, moment, self._parts.limit_bytes))
            size_bytes += sum(len(write.value or b"") for write in self._writes[-1])
            await self._parts.turns.time_left()
        return [write for its_writes in self._writes for write in its_writes]

    def taken(self) -> Iterator[int]:
        """The input offsets of what the commit settles."""
        return (decided.offset for decided in self._committing)

    async def confirm(self) -> None:
        """What was taken is committed: all of it is told so, also where the lane is cancelled meanwhile."""
        # each is let go in its own turn too: to free the words of 500 long transcripts at once takes 60 ms
        left = deque(zip(self._committing, self._writes, strict=True))
        self._committing, self._writes = [], []
        try:
            while left:
                _confirm(*left.popleft())
                await self._parts.turns.time_left()
        finally:
            while left:
                _confirm(*left.popleft())

    def drop(self) -> None:
        """The lane is gone; what is in hand is decided anew by the next owner."""
        for decided in (*self._committing, *self._ready):
            decided.dropped()
        self._committing, self._writes = [], []
        self._ready.clear()


def _confirm(decided: Decided, writes: list[Write]) -> None:
    decided.confirmed(writes)
