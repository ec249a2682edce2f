"""A circuit breaker: after too many failures in a row an engine is left alone, then tried by one request; pure."""

from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    """Closed: requests flow. Open: none do. Half-open: one probe is on its way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


StateChange = Callable[[BreakerState, BreakerState, str], None]
"""Called with the old state, the new one, and why."""


class Breaker:
    """One engine's breaker. Times are seconds on whatever clock the caller uses throughout.

    Every ``allow`` that said yes is answered by one of ``record_success``, ``record_failure`` and ``abandon``.
    A probe whose answer never comes loses its turn after ``probe_lease_seconds``, so that it cannot wedge the rest.
    """

    def __init__(
        self,
        *,
        failures: int,
        reset_seconds: float,
        probe_lease_seconds: float,
        on_change: StateChange | None = None,
    ) -> None:
        self._limit = failures
        self._reset_seconds = reset_seconds
        self._lease_seconds = probe_lease_seconds
        self._on_change = on_change
        self._failures = 0
        self._until = 0.0
        """Open: when a probe may go. Half-open: when the probe's lease ends."""
        self.state = BreakerState.CLOSED
        self.reason = ""
        """Why it last opened."""
        self.successes = 0
        """How many requests went well so far: tells a dead engine from one request that always fails."""

    def listen(self, on_change: StateChange) -> None:
        """Call ``on_change`` at each change of state, after whoever listens already."""
        earlier = self._on_change

        def both(old: BreakerState, new: BreakerState, why: str) -> None:
            if earlier is not None:
                earlier(old, new, why)
            on_change(old, new, why)

        self._on_change = both

    def would_allow(self, now: float) -> bool:
        """Whether ``allow`` would say yes; changes nothing."""
        return self.state is BreakerState.CLOSED or now >= self._until

    def allow(self, now: float) -> bool:
        """Ask before a request. In the open state the first who comes late enough becomes the probe."""
        if self.state is BreakerState.CLOSED:
            return True
        if now < self._until:
            return False
        self._until = now + self._lease_seconds
        self._move(BreakerState.HALF_OPEN, "one request tries it again")
        return True

    def wait_seconds(self, now: float) -> float:
        """How long until ``allow`` may say yes if nothing else happens."""
        return 0.0 if self.would_allow(now) else self._until - now

    def record_success(self, now: float) -> None:  # noqa: ARG002 (the three answers look alike)
        """A request went well. One that was sent before the breaker opened does not close it: the probe decides."""
        self.successes += 1
        if self.state is BreakerState.OPEN:
            return
        self._failures = 0
        if self.state is BreakerState.HALF_OPEN:
            self._move(BreakerState.CLOSED, "it works again")

    def record_failure(self, now: float, reason: str = "") -> None:
        """A request failed through the engine's fault."""
        if self.state is BreakerState.OPEN:
            return
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._open(f"the probe failed: {reason}" if reason else "the probe failed", now, self._reset_seconds)
        elif self._failures >= self._limit:
            why = f"{self._failures} failures in a row"
            self._open(f"{why}, the last: {reason}" if reason else why, now, self._reset_seconds)

    def trip(self, reason: str, now: float, hold_seconds: float | None = None) -> None:
        """Open at once, for ``hold_seconds`` or the usual time."""
        self._open(reason, now, self._reset_seconds if hold_seconds is None else hold_seconds)

    def abandon(self, now: float) -> None:
        """A request ended without saying anything about the engine; a probe's turn passes to the next one."""
        if self.state is BreakerState.HALF_OPEN:
            self._until = now
            self._move(BreakerState.OPEN, "the probe ended without an answer")

    def _open(self, reason: str, now: float, seconds: float) -> None:
        self.reason = reason
        self._failures = 0
        # a later and shorter hold must not cut an earlier one short
        self._until = max(self._until, now + seconds) if self.state is BreakerState.OPEN else now + seconds
        self._move(BreakerState.OPEN, reason)

    def _move(self, new: BreakerState, why: str) -> None:
        old, self.state = self.state, new
        if old is not new and self._on_change is not None:
            self._on_change(old, new, why)
