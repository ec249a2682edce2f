"""How an event ends, and what is published for it: all of it in one transaction with its offset.

- ``Transcribed``: a transcript, a metric event, and the dedup entry if this event answers for the recognition
- ``DeadLettered``: a dead letter and a metric event
- ``Moved``: the event again, under its digest; its outcome is where it goes
- ``Parked``: the event again, on the topic of those that wait; its outcome comes when it has come back
"""

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from consumer.core.event import Moves, Notes, parse_origin
from consumer.core.model import Record
from consumer.core.parking import PARKED_HEADERS, carried, encode_attempts
from consumer.core.prices import spent_usd
from schemas.codec import encode
from schemas.codes import Header, Hold, Outcome, Reason, Route, WarningCode
from schemas.models import (
    Attempt,
    DeadLetter,
    DedupEntry,
    Disagreement,
    EngineWordErrors,
    LatencySeconds,
    Origin,
    Recognised,
    Transcript,
    TranscriptionMetric,
    WordErrors,
)
from schemas.topics import Topics

Headers = list[tuple[str, bytes]]

_DISPENSABLE: tuple[tuple[str, Any, WarningCode], ...] = (
    ("words", None, WarningCode.WORDS_DROPPED),
    ("segments", [], WarningCode.SEGMENTS_DROPPED),
    ("metadata", {}, WarningCode.METADATA_DROPPED),
)
"""What a transcript that is too large goes without, in this order: words are many times the text."""
_WORD_BYTES = 66
"""A word takes no less in JSON, with its times and its confidence."""
_ATTEMPTS_AT_MOST = 500
"""Ledger lines in one metric: an event that waits out a dead engine for days must not outgrow its topic."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a transaction. ``partition`` None: by the key's hash."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None
    """None: now. A moved event keeps the time of its first record."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When an outcome is written: the wall clock, and how long it waited for its transaction."""

    now: datetime
    commit_seconds: float
    breakers_open: tuple[str, ...] = ()
    """Engines that are left alone meanwhile."""


@dataclass(frozen=True, slots=True)
class DedupWrite:
    """The entry that goes with a transcript: remembered in the partition that owns the digest."""

    key: str
    partition: int


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The words are known."""

    notes: Notes
    recognised: Recognised
    route: Route
    cached: bool
    cost_usd: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    queue_seconds: float | None = None
    infer_seconds: float | None = None
    shadow_seconds: float | None = None
    refine_seconds: float | None = None
    wer: WordErrors | None = None
    disagreement: Disagreement | None = None
    shadow_wer: EngineWordErrors | None = None
    dedup: DedupWrite | None = None

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        """Transcript, metric, and dedup entry if there is one."""
        event = self.notes.event
        assert event is not None
        assert self.notes.digest is not None
        common = _common(self.recognised, self.notes.warnings)
        transcript = Transcript(
            **common,
            event_id=event.event_id,
            sha256=self.notes.digest,
            tenant=event.tenant,
            route=self.route,
            cached=self.cached,
            cost_usd=self.cost_usd,
            metadata=event.metadata,
            published_at=self.notes.published_at,
            completed_at=moment.now,
        )
        key, headers = event.event_id.encode(), _trace(self.notes)
        value, metric = _within(transcript, limit_bytes), encode(self._metric(moment))
        found = [
            Write(topics.transcripts, key, value, headers=headers),
            Write(topics.metrics, key, metric, None, headers),
        ]
        if self.dedup is not None:
            found.append(self._entry(self.dedup, topics, moment, limit_bytes))
        return found

    def _entry(self, dedup: DedupWrite, topics: Topics, moment: Moment, limit_bytes: int) -> Write:
        assert self.notes.event is not None
        entry = DedupEntry(
            **_common(self.recognised, []),
            first_event_id=self.notes.event.event_id,
            completed_at=moment.now,
        )
        return Write(topics.dedup, dedup.key.encode(), _within(entry, limit_bytes), dedup.partition)

    def _metric(self, moment: Moment) -> TranscriptionMetric:
        return TranscriptionMetric(
            **_of_event(self.notes, moment),
            outcome=Outcome.TRANSCRIBED,
            route=self.route,
            engine=self.recognised.engine,
            cached=self.cached,
            audio_seconds=self.recognised.audio_seconds,
            language=self.recognised.language,
            latency_seconds=_latency(
                self.notes,
                moment,
                queue=self.queue_seconds,
                infer=self.infer_seconds,
                shadow=self.shadow_seconds,
                refine=self.refine_seconds,
            ),
            cost_usd=self.cost_usd,
            wer=self.wer,
            disagreement=self.disagreement,
            shadow_wer=self.shadow_wer,
            confidence=self.recognised.confidence,
            attempts=[*self.notes.attempts, *self.attempts][-_ATTEMPTS_AT_MOST:],
        )


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The event cannot be served; a person should look at it."""

    notes: Notes
    reason: Reason
    detail: str
    event_id: str | None
    tenant: str | None

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        """Dead letter and metric."""
        record = self.notes.record
        letter = DeadLetter(
            event_id=self.event_id,
            tenant=self.tenant,
            reason=self.reason,
            detail=self.detail[:2000],
            attempts=max(self.notes.tries, len(self.notes.attempts)),
            origin=_origin(record),
            payload_base64=None if record.value is None else b64encode(record.value).decode("ascii"),
            failed_at=moment.now,
        )
        metric = TranscriptionMetric(
            **{"event_id": self.event_id, "tenant": self.tenant or "default", **_of_event(self.notes, moment)},
            outcome=Outcome.DEAD_LETTERED,
            reason=self.reason,
            latency_seconds=_latency(self.notes, moment),
            cost_usd=spent_usd(self.notes.attempts),
            attempts=self.notes.attempts[-_ATTEMPTS_AT_MOST:],
        )
        key = self.event_id.encode() if self.event_id is not None else None
        headers = _trace(self.notes)
        value = encode(letter)
        if len(value) > limit_bytes:  # it came compressed, and is larger than any record may be
            detail = f"{letter.detail} (the record is too large to be carried here; it is at its origin)"
            slim = Origin(
                topic=record.topic, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
            )
            value = encode(letter.model_copy(update={"payload_base64": None, "origin": slim, "detail": detail}))
        return [
            Write(topics.dead_letters, key, value, headers=headers),
            Write(topics.metrics, key, encode(metric), headers=headers),
        ]


@dataclass(frozen=True, slots=True)
class Moved:
    """The event belongs to another lane: the same record again, keyed by its digest."""

    notes: Notes
    digest: str
    partition: int

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:  # noqa: ARG002 (one shape)
        """The event itself; no metric."""
        record, moves = self.notes.record, Moves.of(self.notes.record)
        ours = {
            **_begun(self.notes),
            Header.MOVES: str(moves.count + 1).encode(),
            Header.ORIGIN: moves.origin.encode(),
            Header.LEFT_AT: moment.now.isoformat().encode(),
        }
        if self.notes.fetch_seconds is not None:
            ours[Header.FETCH_SECONDS] = f"{self.notes.fetch_seconds:.6f}".encode()
        headers = [(name, value) for name, value in record.headers if name not in ours]
        return [
            Write(
                topics.events,
                self.digest.encode("ascii"),
                record.value,
                self.partition,
                [*headers, *ours.items()],
                record.timestamp_ms,
            )
        ]


@dataclass(frozen=True, slots=True)
class Parked:
    """The event cannot be served for a long time: it waits where it keeps nobody from being served."""

    notes: Notes
    why: Hold
    until: datetime

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:  # noqa: ARG002 (one shape)
        """The event itself; no metric."""
        record = self.notes.record
        ours = {
            **_begun(self.notes),
            Header.PARKED_UNTIL: self.until.astimezone(UTC).isoformat().encode(),
            Header.PARKED_FOR: self.why.encode(),
            Header.ORIGIN: Moves.of(record).origin.encode(),
            Header.LEFT_AT: moment.now.isoformat().encode(),
        }
        if record.key is not None:
            ours[Header.PARKED_KEY] = record.key
        if lines := carried(self.notes.attempts):
            ours[Header.PARKED_ATTEMPTS] = encode_attempts(lines)
        headers = [(name, value) for name, value in record.headers if name not in (*ours, *PARKED_HEADERS)]
        # its own place names it: an origin is what a header says, and anybody can write headers
        key = f"{record.topic}/{record.partition}/{record.offset}".encode()
        return [
            Write(topics.parked, key, record.value, record.partition, [*headers, *ours.items()], record.timestamp_ms)
        ]


Settlement = Transcribed | DeadLettered | Moved | Parked
ELSEWHERE = (Moved, Parked)
"""These settle a record, not yet its event."""


def _common(recognised: Recognised, warnings: list[str]) -> dict[str, Any]:
    fields = {name: getattr(recognised, name) for name in Recognised.model_fields}
    return {**fields, "warnings": [*recognised.warnings, *warnings]}


def _within(model: Transcript | DedupEntry, limit_bytes: int) -> bytes:
    """What can be said within the limit; a record over it would stop the lane for good."""
    value: bytes | None = None
    if len(model.words or ()) * _WORD_BYTES <= limit_bytes:  # else it need not be tried: hours of words take long
        value = encode(model)
    for field, empty, warning in _DISPENSABLE:
        if value is not None and len(value) <= limit_bytes:
            break
        if getattr(model, field, empty) != empty:
            model = model.model_copy(update={field: empty, "warnings": [*model.warnings, warning]})
            value = encode(model)
    assert value is not None
    return value


def _of_event(notes: Notes, moment: Moment) -> dict[str, Any]:
    """What every metric says of its event, as far as that could be read."""
    event = notes.event
    known = {} if event is None else {"event_id": event.event_id, "tenant": event.tenant, "critical": event.critical}
    return {**known, "breakers_open": list(moment.breakers_open), "completed_at": moment.now}


def _latency(notes: Notes, moment: Moment, **stages: float | None) -> LatencySeconds:
    return LatencySeconds(
        total=max(0.0, (moment.now - notes.published_at).total_seconds()),
        fetch=notes.fetch_seconds,
        decode=notes.decode_seconds,
        commit=moment.commit_seconds,
        **stages,
    )


def _origin(record: Record) -> Origin:
    here = Origin(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        key_base64=None if record.key is None else b64encode(record.key).decode("ascii"),
        headers=[(name, b64encode(value).decode("ascii")) for name, value in record.headers],
    )
    first = parse_origin(Moves.of(record).origin)
    if first is None:
        return here
    return here.model_copy(update=dict(zip(("topic", "partition", "offset"), first, strict=True)))


def _trace(notes: Notes) -> Headers:
    return [(name, value.encode("ascii")) for name, value in notes.traceparent.items()]


def _begun(notes: Notes) -> dict[str, bytes]:
    """The trace that began with this record, since nobody had sent one along: the event goes on in it."""
    trace_id = notes.traceparent.get(Header.TRACEPARENT, "")[3:35].encode("ascii")
    sent = notes.record.header(Header.TRACEPARENT) or b""
    return {} if trace_id in sent else dict(_trace(notes))
