"""Who uses an executor: several batches side by side, or one that is under suspicion and nobody beside it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

AWAY_SECONDS = 1.0
"""What could not be had is left alone for so long at least."""


class Executor:
    """One of what runs batches, a child with its device; ``number`` names it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.batches = 0
        """Batches that were taken for it and are not yet settled."""
        self.finished_at = float("-inf")
        """When its latest batch went through, on the dispatcher's clock."""
        self.away_until = float("-inf")
        """It could not be had, and is not tried again before this, as long as another one can."""
        self._running = 0
        self._suspects = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def use(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for a place; ``alone``: until nothing runs, and keep others out."""
        self._suspects += alone
        try:
            async with self._freed:
                await self._freed.wait_for(lambda: not self._running if alone else not self._suspects)
                self._running += 1
            try:
                yield
            finally:
                self._running -= 1
        finally:
            self._suspects -= alone
            async with self._freed:
                self._freed.notify_all()


def is_to_rest(executor: Executor, executors: Sequence[Executor], now: float) -> bool:
    """Whether others shall do its work: one that fails at once would take all there is, and fail it."""
    return executor.away_until > now and any(other.away_until <= now for other in executors)


def another_is_freer(executor: Executor, executors: Sequence[Executor], now: float) -> bool:
    """Whether one that can be had holds fewer batches."""
    return any(other.batches < executor.batches and other.away_until <= now for other in executors)
