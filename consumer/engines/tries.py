"""What was tried for one recording, and who will not serve it."""

from dataclasses import dataclass, field, replace

from consumer.core.model import Heard, Recording, Wish
from consumer.core.prices import spent_usd
from consumer.core.router import Side
from consumer.errors import EventError, HoldError, ReasonedError, TransientError
from schemas.codes import Reason
from schemas.models import Attempt


@dataclass(slots=True)
class Tries:
    """Of one recording on its way to its words."""

    recording: Recording
    wish: Wish
    attempts: list[Attempt] = field(default_factory=list)
    failures: int = 0
    own_failures: dict[Side, int] = field(default_factory=dict)
    unfit: dict[Side, ReasonedError] = field(default_factory=dict)
    held: dict[Side, HoldError] = field(default_factory=dict)
    """Sides that will not serve it before a known time."""


def with_history(heard: Heard, tries: Tries) -> Heard:
    """What was heard, with the tries before it and what they cost."""
    if not tries.attempts:
        return heard
    attempts = [*tries.attempts, *heard.attempts]
    return replace(heard, attempts=attempts, cost_usd=spent_usd(attempts))


def refused(tries: Tries) -> EventError:
    """Why no engine will ever serve it."""
    error = tries.unfit.get(Side.PRIMARY) or next(iter(tries.unfit.values()))
    if not isinstance(error, TransientError):
        return EventError(error.reason, error.detail)
    count = len(tries.attempts)
    detail = f"every engine that may serve it failed while it served others ({count} tries); the last: {error.detail}"
    return EventError(Reason.ATTEMPTS_EXHAUSTED, detail)
