"""A circuit breaker: when too many of its latest answers failed, or were slow, an engine is left alone for a while,
then tried by one request; pure.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Closed: requests flow. Open: none do. Half-open: one probe is on its way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


StateChange = Callable[[BreakerState, BreakerState, str], None]
"""Called with the old state, the new one, and why."""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A breaker at one moment, for whoever watches it."""

    state: BreakerState
    reason: str
    """Why it last opened; empty if it never did."""
    failure_rate: float
    """Of the latest answers, 0 to 1; 0 before the first."""
    slow_rate: float
    wait_seconds: float
    """Until one request may try again; 0 while it is closed."""


class Breaker:
    """One engine's breaker. Times are seconds on whatever clock the caller uses throughout.

    Every ``allow`` that said yes is answered by one of ``record_success``, ``record_failure`` and ``abandon``.
    A probe whose answer never comes loses its turn after ``probe_lease_seconds``, so that it cannot wedge the rest.
    ``sent_at`` tells it from requests that were sent before the breaker opened: their answers do not judge it.
    """

    def __init__(
        self,
        *,
        failures: int,
        reset_seconds: float,
        probe_lease_seconds: float,
        failure_rate: float = 1.0,
        slow_rate: float = 1.0,
        on_change: StateChange | None = None,
    ) -> None:
        """It opens when ``failures`` of the latest ``failures / failure_rate`` answers failed, or when ``slow_rate``
        of so many answers were slow.
        """
        self._limit = failures
        window = math.ceil(failures / failure_rate)
        self._slow_limit = math.ceil(window * slow_rate)
        self._latest: deque[tuple[bool, bool]] = deque(maxlen=window)
        """Whether each answer failed, and whether it was slow."""
        self._reset_seconds = reset_seconds
        self._lease_seconds = probe_lease_seconds
        self._on_change = on_change
        self._until = 0.0
        """Open: when a probe may go. Half-open: when the probe's lease ends."""
        self._probed_at = -math.inf
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
        self._until, self._probed_at = now + self._lease_seconds, now
        self._move(BreakerState.HALF_OPEN, "one request tries it again")
        return True

    def status(self, now: float) -> BreakerStatus:
        """For metrics and the status page."""
        count = max(1, len(self._latest))
        failed, slow = self._counts()
        return BreakerStatus(self.state, self.reason, failed / count, slow / count, self.wait_seconds(now))

    def wait_seconds(self, now: float) -> float:
        """How long until ``allow`` may say yes if nothing else happens."""
        return 0.0 if self.would_allow(now) else self._until - now

    def record_success(self, now: float, *, slow: bool = False, sent_at: float = math.inf) -> None:
        """A request went well. One that was sent before the breaker opened does not close it: the probe decides."""
        self.successes += 1
        self._record(now, failed=False, slow=slow, reason="slow answers", sent_at=sent_at)

    def record_failure(self, now: float, reason: str = "", *, slow: bool = False, sent_at: float = math.inf) -> None:
        """A request failed through the engine's fault."""
        self._record(now, failed=True, slow=slow, reason=reason, sent_at=sent_at)

    def _record(self, now: float, *, failed: bool, slow: bool, reason: str, sent_at: float) -> None:
        if self.state is BreakerState.OPEN or self._was_before_the_probe(sent_at):
            return
        if self.state is BreakerState.HALF_OPEN:
            self._judge_probe(now, failed=failed, slow=slow, reason=reason)
            return
        self._latest.append((failed, slow))
        failures, slows = self._counts()
        if failed and failures >= self._limit:
            why = f"{failures} of the latest {len(self._latest)} answers were failures"
            self._open(f"{why}, the last: {reason}" if reason else why, now, self._reset_seconds)
        elif slow and slows >= self._slow_limit:
            why = f"{slows} of the latest {len(self._latest)} answers were slow"
            self._open(why, now, self._reset_seconds)

    def _was_before_the_probe(self, sent_at: float) -> bool:
        return self.state is BreakerState.HALF_OPEN and sent_at < self._probed_at

    def _judge_probe(self, now: float, *, failed: bool, slow: bool, reason: str) -> None:
        if not failed and not slow:
            self._latest.clear()
            self._move(BreakerState.CLOSED, "it works again")
            return
        why = "the probe failed" if failed else "the probe was slow"
        self._open(f"{why}: {reason}" if failed and reason else why, now, self._reset_seconds)

    def _counts(self) -> tuple[int, int]:
        return sum(failed for failed, _ in self._latest), sum(slow for _, slow in self._latest)

    def trip(self, reason: str, now: float, hold_seconds: float | None = None) -> None:
        """Open at once, for ``hold_seconds`` or the usual time."""
        self._open(reason, now, self._reset_seconds if hold_seconds is None else hold_seconds)

    def abandon(self, now: float, *, sent_at: float = math.inf) -> None:
        """A request ended without saying anything about the engine; a probe's turn passes to the next one."""
        if self.state is BreakerState.HALF_OPEN and not self._was_before_the_probe(sent_at):
            self._until = now
            self._move(BreakerState.OPEN, "the probe ended without an answer")

    def _open(self, reason: str, now: float, seconds: float) -> None:
        self.reason = reason
        self._latest.clear()
        # a later and shorter hold must not cut an earlier one short
        self._until = max(self._until, now + seconds) if self.state is BreakerState.OPEN else now + seconds
        self._move(BreakerState.OPEN, reason)

    def _move(self, new: BreakerState, why: str) -> None:
        old, self.state = self.state, new
        if old is not new and self._on_change is not None:
            self._on_change(old, new, why)
