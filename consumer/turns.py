"""Turns of the event loop, shared out: what is quick for one is a block where thousands do it in one turn.

Heartbeats, polls and timers come between two turns. So whoever does the same for many asks before each of them whether
the turn has time left, and so does each of many who wake together. Those who may meet in one turn ask one and the same
object: the lanes and all that serves them one, the engines another.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

TURN_SECONDS = 0.005
"""What is done in a turn before those who ask are put off: far below what a heartbeat may wait, far above the price of
a turn."""
CROWD = 32
"""So many wait that whoever would bring more had better wait too."""


class Turns:
    """For one event loop; ``clock`` is monotonic, in seconds."""

    def __init__(self, seconds: float = TURN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._ends: float | None = None
        """When the present turn has no time left; None: nobody has asked in it."""
        self._waiting: OrderedDict[object, None] = OrderedDict()
        self._first: object = None
        """Who had waited longest when the present turn began."""

    @property
    def crowded(self) -> bool:
        """Whether to begin nothing that would ask for time too."""
        return len(self._waiting) >= CROWD

    async def time_left(self) -> None:
        """Return while a turn has time left: at once, or some turns later.

        In each turn the one that has waited longest goes on in any case, so that nobody waits for ever. Ask between
        whole steps only: anything else may happen meanwhile.
        """
        if not self._is_over():
            return
        me = object()
        self._waiting[me] = None
        try:
            while True:
                await asyncio.sleep(0)
                if not self._is_over() or self._first is me:
                    return
        finally:
            del self._waiting[me]

    def _is_over(self) -> bool:
        if self._ends is None:
            self._ends = self._clock() + self._seconds
            self._first = next(iter(self._waiting), None)
            asyncio.get_running_loop().call_soon(self._next)
            return False
        return self._clock() >= self._ends

    def _next(self) -> None:
        self._ends = None
