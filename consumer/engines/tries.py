"""What was tried for one recording, and who will not serve it."""

from dataclasses import dataclass, field, replace

from consumer.core.model import Heard, Recording, Wish
from consumer.core.prices import spent_usd
from consumer.core.router import Side
from consumer.errors import EventError, HoldError, ReasonedError, SlowDownError, TransientError
from schemas.codes import Hold, Reason
from schemas.models import Attempt, EngineRef


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

    def hold_off(self, side: Side, error: SlowDownError, until: float) -> None:
        """A side asks for patience; ``until`` is in seconds since 1970."""
        self.held[side] = HoldError(Hold.ENGINE, Reason.DEADLINE_EXCEEDED, error.detail, until=until)

    def line(self, ref: EngineRef, outcome: str, seconds: float, cost_usd: float) -> Attempt:
        """A try of an engine that keeps no ledger of its own."""
        return Attempt(
            engine=ref.name,
            model=ref.model,
            outcome=outcome,
            audio_seconds=self.recording.audio_seconds,
            cost_usd=cost_usd,
            usage_source="measured",
            seconds=seconds,
        )


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
