"""Breakers as the settings want them, what they call slow, and which of them are open."""

from collections.abc import Mapping
from functools import partial

from consumer.core.breaker import Breaker, BreakerState
from consumer.settings import Settings


def new_breaker(settings: Settings, *, probe_lease_seconds: float) -> Breaker:
    """Closed; ``probe_lease_seconds``: after so long a probe that never answered loses its turn."""
    return Breaker(
        failures=settings.breaker_failures,
        failure_rate=settings.breaker_failure_rate,
        slow_rate=settings.breaker_slow_rate,
        reset_seconds=settings.breaker_reset_seconds,
        probe_lease_seconds=probe_lease_seconds,
    )


def is_slow(seconds: float, audio_seconds: float, settings: Settings) -> bool:
    """Whether an answer took longer than the settings call slow, and longer than its audio lasts."""
    return seconds > max(settings.breaker_slow_seconds, audio_seconds)


class OpenBreakers:
    """Which engines of this process are left alone, for those who raise an alert."""

    def __init__(self, breakers: Mapping[str, Breaker]) -> None:
        self._breakers = breakers
        self._opened: set[str] = set()
        for name, breaker in breakers.items():
            breaker.listen(partial(self._moved, name))

    def now(self) -> list[str]:
        """Those that are not closed at this moment."""
        return [name for name, breaker in self._breakers.items() if breaker.state is not BreakerState.CLOSED]

    def take(self) -> list[str]:
        """And those that have opened since this was last asked: where nobody stands in, there may have been nothing to
        say it in before they closed again.
        """
        opened, self._opened = self._opened, set()
        return sorted(opened.union(self.now()))

    def _moved(self, name: str, _old: BreakerState, new: BreakerState, _why: str) -> None:
        if new is BreakerState.OPEN:
            self._opened.add(name)
