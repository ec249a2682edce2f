"""How long the event loop is kept from its work: heartbeats, polls and every other task wait for so long.

A timer comes 50 times a second; how much too late it comes is the block, to within the timer's period.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from consumer.core.worst import WorstOfMinute

TICK_SECONDS = 0.02
WORTH_A_LINE_SECONDS = 0.05
QUIET_SECONDS = 10.0
"""Between two lines about it at least."""

log = logging.getLogger(__name__)


class LoopMonitor:
    """Feeds on ticks; ``clock`` is monotonic, ``computing`` the loop thread's processor time, both in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, computing: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._computing = computing
        self._minute = WorstOfMinute()
        self._quiet_until = float("-inf")
        self._due = self._clock() + TICK_SECONDS
        self._computed = self._computing()
        self.longest_seconds = 0.0
        """The longest block since the start."""
        self.longest_computing_seconds = 0.0
        """The most that was computed in one block: what is left of it on a machine with a core to spare."""

    @property
    def longest_of_minute_seconds(self) -> float:
        return self._minute.worst(self._clock())

    def tick(self) -> None:
        """The timer has come; the next is due a period from here."""
        now, computed = self._clock(), self._computing()
        late, computing = max(0.0, now - self._due), computed - self._computed
        self._minute.add(late, now)
        self.longest_seconds = max(self.longest_seconds, late)
        self.longest_computing_seconds = max(self.longest_computing_seconds, min(late, computing))
        if late > WORTH_A_LINE_SECONDS and now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            # little computing: the machine had no core for this thread, or it waited for a disk
            log.warning("loop_blocked seconds=%.3f computing_seconds=%.3f", late, computing)
        self._due, self._computed = now + TICK_SECONDS, computed


@contextmanager
def monitored_loop() -> Iterator[LoopMonitor]:
    """Watch the running loop for the length of the block."""
    monitor = LoopMonitor()
    ticking = asyncio.create_task(_tick(monitor), name="loop monitor")
    try:
        yield monitor
    finally:
        ticking.cancel()


async def _tick(monitor: LoopMonitor) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        monitor.tick()
