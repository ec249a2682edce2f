"""One recording on its way to its words: what was tried, and who will not serve it."""

from dataclasses import dataclass, field, replace

from consumer.core.model import Heard, Recording, Wish
from consumer.core.prices import total_usd
from consumer.core.router import Side
from consumer.errors import EventError, HoldError, ReasonedError, TransientError
from schemas.codes import Reason
from schemas.models import Attempt


@dataclass(slots=True)
class Journey:
    """One recording on its way to its words."""

    recording: Recording
    wish: Wish
    attempts: list[Attempt] = field(default_factory=list)
    failures: int = 0
    own_failures: dict[Side, int] = field(default_factory=dict)
    unfit: dict[Side, ReasonedError] = field(default_factory=dict)
    held: dict[Side, HoldError] = field(default_factory=dict)
    """Sides that will not serve it before a known time."""


def with_history(heard: Heard, journey: Journey) -> Heard:
    """What was heard, with the tries before it and what they cost."""
    if not journey.attempts:
        return heard
    attempts = [*journey.attempts, *heard.attempts]
    return replace(heard, attempts=attempts, cost_usd=total_usd(attempt.cost_usd for attempt in attempts))


def refused(journey: Journey) -> EventError:
    """Why no engine will ever serve it."""
    error = journey.unfit.get(Side.PRIMARY) or next(iter(journey.unfit.values()))
    if not isinstance(error, TransientError):
        return EventError(error.reason, error.detail)
    tries = len(journey.attempts)
    detail = f"every engine that may serve it failed while it served others ({tries} tries); the last: {error.detail}"
    return EventError(Reason.ATTEMPTS_EXHAUSTED, detail)
