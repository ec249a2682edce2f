"""THE PATH: one event from its record to its outcome, a line for each step.

    record → event → digest → (moved to its lane) → heard before? → (parked) → fetch → decode → recognise
    → (compare) → (refine) → outcome

Chunks, batches and the choice of engine are behind ``recognise``; Kafka is on both ends and not in here.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from consumer.audio.recordings import RecordingChangedError, Recordings, Source
from consumer.core.budget import UNLIMITED, Purse
from consumer.core.event import MOVES_LIMIT, Moves, Notes, dedup_key, known_digest
from consumer.core.model import Record, Recording, Urgency, Wish
from consumer.core.off_peak import CheapHours
from consumer.core.outcomes import DeadLettered, DedupWrite, Moved, Parked, Settlement, Transcribed
from consumer.core.parking import Waited
from consumer.core.prices import spent_usd, total_usd
from consumer.core.refine import unless_stale
from consumer.dedup.single_flight import Flight, Landing, Lead, Result
from consumer.engines.second_looks import NO_LOOKS, SecondLooks
from consumer.errors import (
    EarwitnessError,
    EventError,
    HoldError,
    ReasonedError,
    ServiceError,
    is_the_machines,
)
from consumer.journey import Journey, too_late
from consumer.settings import Settings
from consumer.settled import Memory, Settled, dead_lettered, describe
from consumer.telemetry.spans import EventSpan, Tracing
from schemas.codec import ContractError, decode_event, decode_recognised
from schemas.codes import Header, Hold, Reason, Route, WarningCode
from schemas.models import AudioEvent, Recognised, utc_now
from schemas.topics import digest_partition

log = logging.getLogger(__name__)


class Recognises(Protocol):
    """Samples to words, by whichever engine the router picks."""

    @property
    def is_idle(self) -> bool: ...

    def language_of(self, wish: Wish) -> str | None: ...

    async def transcribe(self, recording: Recording, wish: Wish) -> Result: ...


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
        looks: SecondLooks = NO_LOOKS,
    ) -> None:
        """``purse`` gives what pays for a tenant's events in a partition."""
        self._settings = settings
        self._recordings = recordings
        self._engine = engine
        self._fingerprint = fingerprint
        self._memory = memory
        self._tracing = tracing
        self._partitions = partitions
        self._cheap_hours = CheapHours.parse(settings.off_peak_hours) if settings.off_peak_hours else None
        self._deferred_by_day = 0
        """Deferred events that are served outside of the cheap hours, since the engine was idle; one at most."""
        self._purse = purse
        self._looks = looks

    async def settle(self, record: Record) -> Settled:
        """Decide one event: whatever is wrong with it becomes a dead letter. Raises ServiceError for what is not."""
        notes, span = Notes(record), self._tracing.process(record)
        notes.traceparent = span.headers()
        span.use()
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
            if is_the_machines(error):
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
        span.received(notes.waits_since)
        detail = "it ended the service process each time it was worked on; look into the service's log before a replay"
        outcome = dead_lettered(notes, EventError(Reason.POISON, detail))
        describe(span, outcome)
        return Settled(outcome, None, span, self._memory.clock(), self._memory)

    def _set_out(self, notes: Notes, span: EventSpan) -> Journey:
        record, limit_bytes = notes.record, self._settings.max_event_bytes
        try:
            if len(record.value or b"") > limit_bytes:
                raise ContractError(Reason.INVALID_EVENT, f"the event is larger than max_event_bytes ({limit_bytes})")
            event = notes.event = decode_event(record.value)
        finally:
            if span.is_recording:  # looking through the headers takes its time
                span.received(notes.waits_since, parked=record.header(Header.PARKED_UNTIL) is not None)
        self._recordings.check(event.uri)
        wish, moves = self._wish(event, notes), Moves.of(record)
        source = Source(event.uri, moves.origin, wish.deadline, moves.fetch_seconds, claimed=event.sha256)
        notes.fetch_seconds = source.fetch_seconds
        waited = Waited.of(record)
        notes.attempts = waited.attempts if waited is not None else []
        return Journey(notes, span, event, wish, moves, source, waited)

    def _wish(self, event: AudioEvent, notes: Notes) -> Wish:
        deadline = None
        if event.deadline_seconds is not None:
            left_seconds = event.deadline_seconds - (utc_now() - notes.published_at).total_seconds()
            deadline = self._memory.clock() + left_seconds
            if left_seconds <= 0:
                due = notes.published_at + timedelta(seconds=event.deadline_seconds)
                raise too_late(f"the deadline was {due:%Y-%m-%d %H:%M:%S} UTC, before work on it could begin")
        wish = Wish(
            event.language or self._settings.language,
            Urgency(critical=event.critical),
            deadline,
            tenant=event.tenant,
            deferred=event.defer and self._cheap_hours is not None,
            purse=self._purse(notes.record.partition, event.tenant),
        )
        return replace(wish, language=self._engine.language_of(wish))

    async def _carry(self, journey: Journey) -> tuple[Settlement, Flight | None]:
        digest = await self._digest(journey)
        while True:
            journey.notes.digest = digest
            owner = digest_partition(digest, self._partitions())
            if owner != journey.notes.record.partition:
                if self._may_move(journey):
                    return Moved(journey.notes, digest, owner), None
                journey.warn(WarningCode.SERVED_AWAY)
            try:
                return await self._words(journey, digest, owner)
            except RecordingChangedError as change:
                digest = change.digest
                journey.warn(WarningCode.DIGEST_CHANGED)
            except HoldError as hold:
                if (parked := await self._hold(journey, hold)) is not None:
                    return parked, None

    async def _digest(self, journey: Journey) -> str:
        known = known_digest(journey.notes.record, journey.event, journey.moves)
        if known is not None and self._settings.dedup_scope == "tenant":
            return known
        # without a digest; or where tenants share results, and a hit must be earned by having the bytes
        try:
            digest = await self._recordings.digest_of(journey.source)
        except ReasonedError as error:
            journey.span.stage("fetch", failed=error.reason)
            raise
        finally:
            journey.notes.fetch_seconds = journey.source.fetch_seconds
        journey.span.stage("fetch")
        return digest

    async def _hold(self, journey: Journey, hold: HoldError) -> Parked | None:
        """Keep the event here until it may go on; or the outcome of one that would wait too long in its place."""
        journey.notes.attempts += hold.attempts
        left_seconds, deadline = hold.until - utc_now().timestamp(), journey.wish.deadline
        if deadline is not None and self._memory.clock() + left_seconds >= deadline:
            journey.span.stage("hold", failed=hold.reason)
            raise EventError(hold.reason, f"{hold.detail}, which is after its deadline")
        if left_seconds > self._settings.max_hold_seconds and journey.may_travel(self._settings.max_event_bytes):
            return Parked(journey.notes, hold.why, datetime.fromtimestamp(hold.until, UTC))
        await asyncio.sleep(left_seconds)
        journey.span.stage("hold")
        return None

    def _may_move(self, journey: Journey) -> bool:
        return journey.moves.count < MOVES_LIMIT and journey.may_travel(self._settings.max_event_bytes)

    async def _words(self, journey: Journey, digest: str, owner: int) -> tuple[Settlement, Flight | None]:
        scope = journey.event.tenant if self._settings.dedup_scope == "tenant" else "*"
        key = dedup_key(scope, digest, self._fingerprint(journey.wish.language))
        if (recognised := self._remembered(owner, key)) is not None:
            return await self._from_cache(journey, recognised), None
        with self._in_its_hours(journey, key):
            landing = await self._land(journey, key, lambda flight: self._lead(journey, digest, flight))
        if not landing.first:
            return await self._from_cache(journey, landing.heard.recognised), None
        try:
            return await self._first_heard(journey, landing, DedupWrite(key, owner)), landing.flight
        except BaseException:
            self._memory.flights.dropped(landing.flight)
            raise

    @contextmanager
    def _in_its_hours(self, journey: Journey, key: str) -> Iterator[None]:
        """Raises HoldError for a deferred event that has to wait; lets one at a time through while the engine idles."""
        hours, deadline, now = self._cheap_hours, journey.wish.deadline, utc_now()
        if hours is None or not journey.wish.deferred or hours.hold(now) or self._memory.flights.has(key):
            yield
            return
        if self._engine.is_idle and not self._deferred_by_day:
            self._deferred_by_day += 1
            try:
                yield
            finally:
                self._deferred_by_day -= 1
            return
        start = hours.next_start(now).timestamp()
        too_late = deadline is not None and self._memory.clock() + start - now.timestamp() >= deadline
        has_waited = journey.waited is not None and journey.waited.has_waited_for(Hold.OFF_PEAK, now.timestamp())
        if not too_late and not has_waited:
            raise HoldError(Hold.OFF_PEAK, Reason.DEADLINE_EXCEEDED, "it waits for the cheap hours", until=start)
        yield

    def _remembered(self, owner: int, key: str) -> Recognised | None:
        value = self._memory.slices.get(owner, key.encode())
        if value is None:
            return None
        try:
            return unless_stale(decode_recognised(value), self._settings.refine_model)
        except ContractError as error:
            log.warning("unreadable_dedup_entry %s: %s; it is heard again", key, error.detail)
            return None

    async def _land(self, journey: Journey, key: str, lead: Lead) -> Landing:
        deadline, flights = journey.wish.deadline, self._memory.flights
        journey.leads, journey.under_way = not flights.has(key), "wait"
        try:
            async with asyncio.timeout(
                None if deadline is None else max(0.0, deadline - self._memory.clock())
            ) as scope:
                landing = await flights.join(key, lead, critical=journey.wish.critical)
                if not journey.leads:
                    journey.span.stage("wait", link=landing.flight.led_by)
                return landing
        except TimeoutError as error:
            if not scope.expired():
                raise
            await flights.abandon(key)
            late = too_late("the deadline passed while the recording was being heard")
            late.attempts = journey.spent
            journey.failed_under_way(late)
            raise late from error
        except ReasonedError as error:
            if not journey.leads:
                journey.failed_under_way(error)
            raise

    async def _lead(self, journey: Journey, digest: str, flight: Flight) -> Result:
        """Have a recording heard, on behalf of all who want these bytes heard, and its text corrected if need be."""
        if not journey.leads:
            journey.span.stage("wait")  # for another, whose own address or deadline failed it
        journey.leads, flight.led_by = True, journey.span.sampled
        wish = replace(journey.wish, urgency=flight.urgency, begins=flight.begins, spent=journey.spent.extend)
        heard, route = await self._hear(journey, digest, wish)
        journey.under_way = "refine"
        heard = await self._looks.refine(heard, digest, wish)
        if heard.refine_seconds is not None:
            journey.span.stage("refine")
        return heard, route

    async def _hear(self, journey: Journey, digest: str, wish: Wish) -> Result:
        notes, source, span, clock = journey.notes, journey.source, journey.span, self._memory.clock
        journey.fetches()
        try:
            async with self._recordings.samples(source, digest) as recording:
                journey.has_fetched()
                span.stage("decode")
                began, journey.under_way = clock(), "infer"
                heard, route = await self._engine.transcribe(recording, wish)
                # whatever was not the engine's own work was waiting: for a batch, a try again, a breaker
                waited_seconds = max(0.0, clock() - began - (heard.infer_seconds or 0.0))
                span.stage("queue", waited_seconds)
                if heard.infer_seconds is not None:
                    span.stage("infer")
                journey.under_way = "shadow"
                heard = replace(heard, queue_seconds=waited_seconds)
                heard = await self._looks.compare(heard, recording, wish)
                if heard.shadow_seconds is not None:
                    span.stage("shadow")
                return heard, route
        except HoldError:
            span.stage("queue")  # nothing failed: it goes on later
            raise
        except ReasonedError as error:
            journey.failed_under_way(error)
            raise
        finally:
            notes.fetch_seconds, notes.decode_seconds = source.fetch_seconds, source.decode_seconds

    async def _from_cache(self, journey: Journey, recognised: Recognised) -> Transcribed:
        wer, earlier_usd = await journey.word_errors(recognised), spent_usd(journey.notes.attempts)
        return Transcribed(journey.notes, recognised, Route.CACHE, cached=True, cost_usd=earlier_usd, wer=wer)

    async def _first_heard(self, journey: Journey, landing: Landing, dedup: DedupWrite) -> Transcribed:
        heard = landing.heard
        return Transcribed(
            journey.notes,
            heard.recognised,
            landing.route,
            cached=False,
            cost_usd=total_usd((heard.cost_usd, spent_usd(journey.notes.attempts))),
            attempts=tuple(heard.attempts),
            queue_seconds=heard.queue_seconds,
            infer_seconds=heard.infer_seconds,
            shadow_seconds=heard.shadow_seconds,
            refine_seconds=heard.refine_seconds,
            wer=await journey.word_errors(heard.recognised),
            disagreement=heard.disagreement,
            shadow_wer=await journey.shadow_errors(heard),
            dedup=dedup,
        )
