"""How long to wait before the next try, and when to stop trying; pure."""

from dataclasses import dataclass
from enum import StrEnum


class GiveUp(StrEnum):
    """Why there is no next try."""

    ATTEMPTS = "attempts"
    DEADLINE = "deadline"
    WAIT_TOO_LONG = "wait_too_long"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter; all times in seconds."""

    attempts: int = 4
    """Tries in all, the first one included."""
    first_seconds: float = 0.5
    """Upper end of the first delay's range; it doubles from there."""
    max_seconds: float = 20.0
    """Upper end of any delay's range."""
    longest_wait_seconds: float = 120.0
    """A longer ``retry_after`` is handed to the caller rather than slept."""

    def ceiling(self, failures: int) -> float:
        """Upper end of the delay's range after so many failures (at least one)."""
        # 2.0 ** 1024 overflows; no range is that long
        return min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))

    def next_delay(
        self,
        failures: int,
        *,
        uniform: float,
        now: float,
        retry_after_seconds: float | None = None,
        deadline: float | None = None,
    ) -> float | GiveUp:
        """Seconds to wait after ``failures`` failed tries, or why not to try again.

        ``uniform`` is a random number from 0 to 1. What the other side asked for is a lower bound, and a little
        jitter comes on top, so that those who were told the same do not come back together.
        """
        if failures >= self.attempts:
            return GiveUp.ATTEMPTS
        delay = uniform * self.ceiling(failures)
        if retry_after_seconds is not None and retry_after_seconds > 0:
            if retry_after_seconds > self.longest_wait_seconds:
                return GiveUp.WAIT_TOO_LONG
            delay = retry_after_seconds + uniform * min(self.first_seconds, 0.1 * retry_after_seconds)
        if deadline is not None and now + delay >= deadline:
            return GiveUp.DEADLINE
        return delay
