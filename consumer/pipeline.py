"""THE PATH: one event from its record to its outcome, a line for each step.

    record → event → digest → (moved to its lane) → heard before? → fetch → decode → recognise → outcome

Chunks, batches and the choice of engine are behind ``recognise``; Kafka is on both ends and not in here.
"""

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol

from consumer.audio.recordings import RecordingChangedError, Recordings, Source
from consumer.core.budget import UNLIMITED, Purse
from consumer.core.event import MOVES_LIMIT, Moves, Notes, dedup_key, known_digest
from consumer.core.model import Record, Recording, Urgency, Wish
from consumer.core.outcomes import DeadLettered, DedupWrite, Moved, Settlement, Transcribed
from consumer.core.quality import word_errors
from consumer.dedup.single_flight import Flight, Landing, Lead, Result
from consumer.errors import EarwitnessError, EventError, ReasonedError, ServiceError
from consumer.settings import Settings
from consumer.settled import Memory, Settled, dead_lettered, describe
from consumer.telemetry.spans import EventSpan, Tracing
from schemas.codec import ContractError, decode_event, decode_recognised
from schemas.codes import Reason, Route, WarningCode
from schemas.models import Attempt, AudioEvent, Recognised, WordErrors, utc_now
from schemas.topics import digest_partition

log = logging.getLogger(__name__)

_MOVE_HEADROOM_BYTES = 1024
"""What moving adds to a record at most: the key and two headers."""


class Recognises(Protocol):
    """Samples to words, by whichever engine the router picks."""

    def language_of(self, wish: Wish) -> str | None: ...

    async def transcribe(self, recording: Recording, wish: Wish) -> Result: ...


@dataclass(slots=True)
class _Journey:
    """One event under way."""

    notes: Notes
    span: EventSpan
    event: AudioEvent
    wish: Wish
    moves: Moves
    source: Source
    spent: list[Attempt] = field(default_factory=list)
    """Ledger lines of a recognition that this event led and that was cut off."""


class Pipeline:
    """Carries events through; what is under way belongs to the lanes and to the flights."""

    def __init__(
        self,
        settings: Settings,
        *,
        recordings: Recordings,
        engine: Recognises,
        fingerprint: Callable[[str | None], str],
        memory: Memory,
        tracing: Tracing,
        partitions: Callable[[], int],
        purse: Callable[[int, str], Purse] = lambda *_: UNLIMITED,
    ) -> None:
        """``purse`` gives what pays for a tenant's events in a partition."""
        self._settings = settings
        self._recordings = recordings
        self._engine = engine
        self._fingerprint = fingerprint
        self._memory = memory
        self._tracing = tracing
        self._partitions = partitions
        self._purse = purse

    async def settle(self, record: Record) -> Settled:
        """Decide one event: whatever is wrong with it becomes a dead letter. Raises ServiceError for what is not."""
        notes, span = Notes(record), self._tracing.process(record)
        notes.traceparent = span.headers()
        outcome: Settlement
        flight: Flight | None = None
        try:
            outcome, flight = await self._carry(self._set_out(notes, span))
        except ContractError as error:
            outcome = DeadLettered(notes, error.reason, error.detail, error.event_id, error.tenant)
        except ReasonedError as error:
            outcome = dead_lettered(notes, error)
        except EarwitnessError:
            raise
        except asyncio.CancelledError:
            span.note(dropped=True)
            span.end()
            raise
        except Exception as error:
            if _is_the_machines(error):
                raise ServiceError(f"this machine fails the service ({error!r}): see to its disk and memory") from error
            log.exception("unexpected_error at %s/%d/%d", record.topic, record.partition, record.offset)
            outcome = dead_lettered(
                notes, EventError(Reason.POISON, f"unexpected {type(error).__name__}; the log has more")
            )
        describe(span, outcome)
        return Settled(outcome, flight, span, self._memory.clock(), self._memory)

    async def condemn(self, record: Record) -> Settled:
        """The outcome of an event that has ended the service each time it was tried: nothing of it is tried again."""
        notes, span = Notes(record), self._tracing.process(record)
        notes.traceparent = span.headers()
        with suppress(ContractError):
            notes.event = decode_event(record.value)
        detail = "it ended the service process each time it was worked on; look into the service's log before a replay"
        outcome = dead_lettered(notes, EventError(Reason.POISON, detail))
        describe(span, outcome)
        return Settled(outcome, None, span, self._memory.clock(), self._memory)

    def _set_out(self, notes: Notes, span: EventSpan) -> _Journey:
        record, limit_bytes = notes.record, self._settings.max_event_bytes
        if len(record.value or b"") > limit_bytes:
            raise ContractError(Reason.INVALID_EVENT, f"the event is larger than max_event_bytes ({limit_bytes})")
        event = notes.event = decode_event(record.value)
        self._recordings.check(event.uri)
        wish, moves = self._wish(event, notes), Moves.of(record)
        source = Source(event.uri, moves.origin, wish.deadline, claimed=event.sha256)
        return _Journey(notes, span, event, wish, moves, source)

    def _wish(self, event: AudioEvent, notes: Notes) -> Wish:
        deadline = None
        if event.deadline_seconds is not None:
            left_seconds = event.deadline_seconds - (utc_now() - notes.published_at).total_seconds()
            deadline = self._memory.clock() + left_seconds
            if left_seconds <= 0:
                due = notes.published_at + timedelta(seconds=event.deadline_seconds)
                raise _too_late(f"the deadline was {due:%Y-%m-%d %H:%M:%S} UTC, before work on it could begin")
        purse = self._purse(notes.record.partition, event.tenant)
        wish = Wish(event.language or self._settings.language, Urgency(critical=event.critical), deadline, purse=purse)
        return replace(wish, language=self._engine.language_of(wish))

    async def _carry(self, journey: _Journey) -> tuple[Settlement, Flight | None]:
        digest = await self._digest(journey)
        while True:
            journey.notes.digest = digest
            owner = digest_partition(digest, self._partitions())
            if owner != journey.notes.record.partition:
                if self._may_move(journey):
                    return Moved(journey.notes, digest, owner), None
                _warn(journey, WarningCode.SERVED_AWAY)
            try:
                return await self._words(journey, digest, owner)
            except RecordingChangedError as change:
                digest = change.digest
                _warn(journey, WarningCode.DIGEST_CHANGED)

    async def _digest(self, journey: _Journey) -> str:
        known = known_digest(journey.notes.record, journey.event, journey.moves)
        if known is not None and self._settings.dedup_scope == "tenant":
            return known
        # without a digest; or where tenants share results, and a hit must be earned by having the bytes
        try:
            with journey.span.stage("fetch"):
                return await self._recordings.digest_of(journey.source)
        finally:
            journey.notes.fetch_seconds = journey.source.fetch_seconds

    def _may_move(self, journey: _Journey) -> bool:
        record = journey.notes.record
        size_bytes = len(record.value or b"") + sum(len(name) + len(value) + 8 for name, value in record.headers)
        return journey.moves.count < MOVES_LIMIT and size_bytes + _MOVE_HEADROOM_BYTES <= self._settings.max_event_bytes

    async def _words(self, journey: _Journey, digest: str, owner: int) -> tuple[Settlement, Flight | None]:
        scope = journey.event.tenant if self._settings.dedup_scope == "tenant" else "*"
        key = dedup_key(scope, digest, self._fingerprint(journey.wish.language))
        if (recognised := self._remembered(owner, key)) is not None:
            return await self._from_cache(journey, recognised), None
        landing = await self._land(journey, key, lambda flight: self._hear(journey, digest, flight))
        if not landing.first:
            return await self._from_cache(journey, landing.heard.recognised), None
        try:
            return await self._first_heard(journey, landing, DedupWrite(key, owner)), landing.flight
        except BaseException:
            self._memory.flights.dropped(landing.flight)
            raise

    def _remembered(self, owner: int, key: str) -> Recognised | None:
        value = self._memory.slices.get(owner, key.encode())
        if value is None:
            return None
        try:
            return decode_recognised(value)
        except ContractError as error:
            log.warning("unreadable_dedup_entry %s: %s; it is heard again", key, error.detail)
            return None

    async def _land(self, journey: _Journey, key: str, lead: Lead) -> Landing:
        deadline = journey.wish.deadline
        try:
            async with asyncio.timeout(
                None if deadline is None else max(0.0, deadline - self._memory.clock())
            ) as scope:
                return await self._memory.flights.join(key, lead, critical=journey.wish.critical)
        except TimeoutError as error:
            if not scope.expired():
                raise
            await self._memory.flights.abandon(key)
            late = _too_late("the deadline passed while the recording was being heard")
            late.attempts = journey.spent
            raise late from error

    async def _hear(self, journey: _Journey, digest: str, flight: Flight) -> Result:
        """Lead a recognition, on behalf of all who want these bytes heard."""
        notes, source = journey.notes, journey.source
        fetched_before = source.fetch_seconds
        wish = replace(journey.wish, urgency=flight.urgency, begins=flight.begins, spent=journey.spent.extend)
        try:
            async with self._recordings.samples(source, digest) as recording:
                if source.fetch_seconds is not fetched_before:
                    journey.span.stage_before("fetch", source.fetch_seconds, source.decode_seconds or 0.0)
                journey.span.stage_before("decode", source.decode_seconds)
                heard, route = await self._engine.transcribe(recording, wish)
                journey.span.stage_before("queue", heard.queue_seconds, heard.infer_seconds or 0.0)
                journey.span.stage_before("infer", heard.infer_seconds)
                return heard, route
        finally:
            notes.fetch_seconds, notes.decode_seconds = source.fetch_seconds, source.decode_seconds

    async def _from_cache(self, journey: _Journey, recognised: Recognised) -> Transcribed:
        wer = await self._word_errors(journey, recognised)
        return Transcribed(journey.notes, recognised, Route.CACHE, cached=True, wer=wer)

    async def _first_heard(self, journey: _Journey, landing: Landing, dedup: DedupWrite) -> Transcribed:
        heard = landing.heard
        return Transcribed(
            journey.notes,
            heard.recognised,
            landing.route,
            cached=False,
            cost_usd=heard.cost_usd,
            attempts=tuple(heard.attempts),
            queue_seconds=heard.queue_seconds,
            infer_seconds=heard.infer_seconds,
            wer=await self._word_errors(journey, heard.recognised),
            dedup=dedup,
        )

    async def _word_errors(self, journey: _Journey, recognised: Recognised) -> WordErrors | None:
        reference, language = journey.event.reference_text, recognised.language or journey.wish.language
        if reference is None:
            return None
        return await asyncio.to_thread(word_errors, reference, recognised.text, language)


def _is_the_machines(error: Exception) -> bool:
    """Whether any event would fail like this: none of them must pay for it."""
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(error, sqlite3.Error | MemoryError) or (
        isinstance(error, OSError) and error.errno in full_or_broken
    )


def _too_late(detail: str) -> EventError:
    return EventError(Reason.DEADLINE_EXCEEDED, f"{detail}; publish it again with more time")


def _warn(journey: _Journey, code: WarningCode) -> None:
    if code not in journey.notes.warnings:
        journey.notes.warnings.append(code)
