"""One event under way through the pipeline."""

import asyncio
from dataclasses import dataclass, field

from consumer.audio.recordings import Source
from consumer.core.event import Moves, Notes
from consumer.core.model import Heard, Wish
from consumer.core.parking import Waited, carried
from consumer.core.quality import word_errors
from consumer.errors import EventError, ReasonedError, RecordingError
from consumer.telemetry.spans import EventSpan
from schemas.codes import Reason, WarningCode
from schemas.models import Attempt, AudioEvent, EngineWordErrors, Recognised, WordErrors

_MOVE_HEADROOM_BYTES = 1024
"""What moving or parking adds to a record at most: a key and a few headers."""
_ATTEMPT_BYTES = 400
"""And for each try that goes along, its ledger line."""


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
    under_way: str = "wait"
    """The stage that the span draws next."""
    _fetched_before: float | None = None

    def fetches(self) -> None:
        """Its bytes are wanted: from here, if they are here already."""
        self.under_way, self._fetched_before = "fetch", self.source.fetch_seconds

    def has_fetched(self) -> None:
        """The bytes are here."""
        self.under_way = "decode"
        if self.source.fetch_seconds is not self._fetched_before:
            self.span.stage("fetch", self.source.fetch_seconds)

    def failed_under_way(self, error: ReasonedError) -> None:
        """The stage that was under way failed."""
        were_here = self.source.fetch_seconds is not self._fetched_before or isinstance(error, RecordingError)
        if self.under_way == "fetch" and were_here:
            self.has_fetched()
        self.span.stage(self.under_way, failed=error.reason)

    def may_travel(self, limit_bytes: int) -> bool:
        """Whether the record still fits on its topic with what moving or parking adds to it."""
        record = self.notes.record
        size_bytes = len(record.value or b"") + sum(len(name) + len(value) + 8 for name, value in record.headers)
        size_bytes += _ATTEMPT_BYTES * len(carried(self.notes.attempts))
        return size_bytes + _MOVE_HEADROOM_BYTES <= limit_bytes

    def warn(self, code: WarningCode) -> None:
        """Have the transcript say it, once."""
        if code not in self.notes.warnings:
            self.notes.warnings.append(code)

    async def word_errors(self, recognised: Recognised) -> WordErrors | None:
        """A text's, if the event carries what was really said."""
        reference, language = self.event.reference_text, recognised.language or self.wish.language
        if reference is None:
            return None
        return await asyncio.to_thread(word_errors, reference, recognised.text, language)

    async def shadow_errors(self, heard: Heard) -> EngineWordErrors | None:
        """Those of the second engine's text, if there is one."""
        if heard.second is None:
            return None
        # in the first text's language, so that both are normalised alike
        second = heard.second.model_copy(update={"language": heard.recognised.language})
        counts = await self.word_errors(second)
        if counts is None:
            return None
        return EngineWordErrors(errors=counts.errors, words=counts.words, engine=second.engine)


def too_late(detail: str) -> EventError:
    """The deadline has passed."""
    return EventError(Reason.DEADLINE_EXCEEDED, f"{detail}; publish it again with more time")
