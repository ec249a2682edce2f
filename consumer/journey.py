"""One event under way through the pipeline."""

from dataclasses import dataclass, field

from consumer.audio.recordings import Source
from consumer.core.event import Moves, Notes
from consumer.core.model import Wish
from consumer.core.parking import Waited
from consumer.errors import EventError
from consumer.telemetry.spans import EventSpan
from schemas.codes import Reason, WarningCode
from schemas.models import Attempt, AudioEvent

_MOVE_HEADROOM_BYTES = 1024
"""What moving or parking adds to a record at most: a key and a few headers."""
_ATTEMPT_BYTES = 400
"""And for each try that was paid, its ledger line."""


@dataclass(slots=True)
class Journey:
    """One event under way."""

    notes: Notes
    span: EventSpan
    event: AudioEvent
    wish: Wish
    moves: Moves
    source: Source
    waited: Waited | None
    spent: list[Attempt] = field(default_factory=list)
    """Ledger lines of a recognition that this event led and that was cut off."""
    leads: bool = False
    """The recognition is this event's own; its stages are then drawn as it goes."""

    def may_travel(self, limit_bytes: int) -> bool:
        """Whether the record still fits on its topic with what moving or parking adds to it."""
        record = self.notes.record
        size_bytes = len(record.value or b"") + sum(len(name) + len(value) + 8 for name, value in record.headers)
        size_bytes += _ATTEMPT_BYTES * sum(attempt.cost_usd > 0 for attempt in self.notes.attempts)
        return size_bytes + _MOVE_HEADROOM_BYTES <= limit_bytes

    def warn(self, code: WarningCode) -> None:
        """Have the transcript say it, once."""
        if code not in self.notes.warnings:
            self.notes.warnings.append(code)


def too_late(detail: str) -> EventError:
    """The deadline has passed."""
    return EventError(Reason.DEADLINE_EXCEEDED, f"{detail}; publish it again with more time")
