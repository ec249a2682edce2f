"""Breakers as the settings want them, and what they call slow."""

from consumer.core.breaker import Breaker
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
