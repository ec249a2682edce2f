"""An engine with the breaker that watches it."""

from dataclasses import dataclass

from consumer.core.breaker import Breaker
from consumer.core.model import Engine
from consumer.engines.breakers import new_breaker
from consumer.engines.openai_api import OpenAIEngine
from consumer.settings import Settings

ATTEMPTS = 5
"""Failures of one recording, while others are served, after which an engine is not asked for it again."""


@dataclass(frozen=True, slots=True)
class Breakers:
    """One for each engine."""

    primary: Breaker
    fallback: Breaker | None = None


@dataclass(frozen=True, slots=True)
class Guarded:
    """An engine with its breaker. The API engine asks its own breaker for each request and reports to it."""

    engine: Engine
    breaker: Breaker
    guards_itself: bool


def default_breakers(primary: Engine, fallback: Engine | None, settings: Settings) -> Breakers:
    """Breakers as the settings want them; the API engine brings its own."""
    return Breakers(breaker_of(primary, settings), None if fallback is None else breaker_of(fallback, settings))


def breaker_of(engine: Engine, settings: Settings) -> Breaker:
    """The engine's own breaker, or a new one for an engine that has none."""
    if isinstance(engine, OpenAIEngine):
        return engine.breaker
    return new_breaker(settings, probe_lease_seconds=settings.engine_timeout_seconds)


def guarded_by(engine: Engine, breaker: Breaker) -> Guarded:
    """Put the two together."""
    return Guarded(engine, breaker, isinstance(engine, OpenAIEngine) and engine.breaker is breaker)
