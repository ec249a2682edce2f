"""A decided outcome on its way into its transaction, and what the end of that means for those who come next."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from consumer.core.event import Notes
from consumer.core.outcomes import ELSEWHERE, DeadLettered, Moment, Moved, Parked, Settlement, Transcribed, Write
from consumer.dedup.single_flight import Flight, SingleFlight
from consumer.dedup.store import DedupSlices
from consumer.errors import EventError, ReasonedError
from consumer.telemetry.spans import EventSpan
from schemas.codes import Reason
from schemas.topics import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process knows of recordings: those being heard, and those whose entries are committed."""

    flights: SingleFlight
    slices: DedupSlices
    clock: Callable[[], float]
    """Seconds, monotonic: the event loop's."""
    settled: Callable[[Settlement, Moment, list[Write], EventSpan], None] = lambda *_: None
    """Told of each outcome whose transaction is committed, with what was written for it: all counting happens here."""
    breakers_open: Callable[[], list[str]] = list
    """Engines that are left alone, or were since it was last asked."""


@dataclass(slots=True)
class Settled:
    """One event's outcome; the lane publishes it and says how that ended."""

    outcome: Settlement
    flight: Flight | None
    """The recognition that this outcome answers for."""
    span: EventSpan
    since: float
    """When it was decided, on the memory's clock."""
    memory: Memory
    moment: Moment | None = None
    """When it was written."""

    @property
    def offset(self) -> int:
        """The input record's."""
        return self.outcome.notes.record.offset

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        """What to publish; one call. What cannot be written becomes a dead letter: it must not stop the lane."""
        has_metric = isinstance(self.outcome, Transcribed | DeadLettered)
        if has_metric and (alone := self.memory.breakers_open()):
            moment = replace(moment, breakers_open=tuple(alone))
        self.moment = moment
        try:
            return self.outcome.writes(topics, moment, limit_bytes)
        except Exception as error:
            log.exception("unwritable_outcome of offset %d", self.offset)
            self._release()
            told = EventError(Reason.POISON, f"the outcome could not be written ({type(error).__name__})")
            self.outcome = dead_lettered(self.outcome.notes, told)
            return self.outcome.writes(topics, moment, limit_bytes)

    def confirmed(self, writes: list[Write]) -> None:
        """The transaction is committed: from now on others may know its dedup entry."""
        assert self.moment is not None
        self.memory.settled(self.outcome, self.moment, writes, self.span)
        self.span.committed(self.moment.now if isinstance(self.outcome, ELSEWHERE) else None)
        if isinstance(self.outcome, Transcribed) and self.outcome.dedup is not None:
            entry = writes[-1]
            assert entry.key == self.outcome.dedup.key.encode()
            assert entry.value is not None
            self.memory.slices.put(self.outcome.dedup.partition, entry.key, entry.value)
            if self.flight is not None:
                self.memory.flights.confirmed(self.outcome.dedup.key, self.flight)

    def dropped(self) -> None:
        """The lane went before the transaction was known to be committed."""
        self.span.note(dropped=True)
        self.span.end()
        self._release()

    def _release(self) -> None:
        """Whoever comes next answers for the recognition."""
        if self.flight is not None:
            self.memory.flights.dropped(self.flight)
            self.flight = None


def dead_lettered(notes: Notes, error: ReasonedError) -> DeadLettered:
    """The outcome of an event that failed, with the attempts that the failure cost."""
    notes.attempts, notes.tries = [*notes.attempts, *error.attempts], error.tries
    event = notes.event
    return DeadLettered(
        notes,
        error.reason,
        error.detail,
        event.event_id if event is not None else None,
        event.tenant if event is not None else None,
    )


def describe(span: EventSpan, outcome: Settlement) -> None:
    """Say on the event's span how it ended."""
    if not span.is_recording:
        return
    event = outcome.notes.event
    if event is not None:
        span.identified(event.event_id, event.tenant)
    match outcome:
        case Transcribed():
            span.note(outcome="transcribed", route=outcome.route, cached=outcome.cached)
        case DeadLettered():
            span.note(outcome="dead_lettered")
            span.failed(outcome.reason, outcome.detail)
        case Moved():
            span.note(outcome="moved", moved_to_partition=outcome.partition)
        case Parked():
            span.note(outcome="parked", parked_for=outcome.why.value, parked_until=outcome.until.isoformat())
