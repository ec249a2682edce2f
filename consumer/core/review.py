"""Dead letters under review: how they are named and chosen, what a replay publishes, and the mark that it leaves.

A mark says that a letter was handled. It is committed in the same transaction as the replay, so neither is there
without the other.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from consumer.core.event import parse_origin
from consumer.core.model import Record
from consumer.core.outcomes import Headers, Write
from consumer.core.parking import PARKED_HEADERS
from consumer.core.shown import parsed, shown_address
from schemas.codec import ContractError, decode_event
from schemas.codes import Header, Reason
from schemas.models import AudioEvent, DeadLetter, Model, Moment

UNREADABLE = "unreadable"
"""Stands where a reason would, for a record that is no dead letter."""
_MOVED_HEADERS = (Header.MOVES, Header.ORIGIN, Header.LEFT_AT, Header.FETCH_SECONDS)
_OURS = (*_MOVED_HEADERS, *PARKED_HEADERS, Header.REPLAY, Header.FIRST)
"""What the service itself wrote: a replay is a new record, and what it has cost so far is in the books already."""
_ID = re.compile(r"(\d{1,9})/(\d{1,18})", re.ASCII)
_HEADER_SLACK_BYTES = 128
"""What a record takes besides key, value and the text of its headers, and the replay headers' fixed parts."""


class NotReplayableError(ValueError):
    """This letter cannot be published again; the text says why and what to do instead."""


class Action(StrEnum):
    """How a letter was handled."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Mark(Model):
    """What is remembered of a handled letter, under its id."""

    action: Action
    at: Moment
    letter_timestamp_ms: int
    """The letter's own: another letter at the same place, after its topic was made anew, is not handled."""
    run: str
    """A random name of the command that did it: so it knows its own mark after a commit in doubt."""
    replay: int | None = None
    """Which replay it was."""

    def covers(self, letter: "Letter") -> bool:
        """Whether it speaks of this letter."""
        return self.letter_timestamp_ms == letter.record.timestamp_ms


@dataclass(frozen=True, slots=True, order=True)
class LetterId:
    """Where a letter lies in its topic; ``partition/offset`` in words."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Raises ValueError for anything but ``partition/offset``."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not an id such as 3/17 (partition/offset)")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Letter:
    """A record of the dead-letter topic; ``content`` is None where it is no dead letter."""

    record: Record
    content: DeadLetter | None

    @classmethod
    def of(cls, record: Record) -> "Letter":
        """Read a record; one that cannot be read can still be shown and discarded."""
        try:
            return cls(record, DeadLetter.model_validate_json(record.value or b""))
        except ValidationError:
            return cls(record, None)

    @property
    def id(self) -> LetterId:
        return LetterId(self.record.partition, self.record.offset)

    @property
    def failed_at(self) -> datetime:
        """When the event failed; for an unreadable letter, when its record was written."""
        if self.content is not None:
            return self.content.failed_at
        try:
            return datetime.fromtimestamp(max(0, self.record.timestamp_ms) / 1000, UTC)
        except (ValueError, OverflowError):
            return datetime.max.replace(tzinfo=UTC)

    @cached_property
    def payload(self) -> bytes | None:
        """The event's record value, as it was published; None where the letter does not carry it."""
        return _decoded(self.content.payload_base64) if self.content is not None else None

    @cached_property
    def fields(self) -> Any:
        """The payload as JSON; None where it is none."""
        return parsed(self.payload)

    @property
    def address(self) -> str | None:
        """The recording's, without query and user, which may be secrets."""
        uri = self.fields.get("uri") if isinstance(self.fields, dict) else None
        return shown_address(uri) if isinstance(uri, str) else None

    @cached_property
    def headers(self) -> Headers:
        """The headers of the event's record; damaged values are left out."""
        origin = self.content.origin if self.content is not None else None
        pairs = [(name, _decoded(value)) for name, value in (origin.headers if origin is not None else [])]
        return [(name, value) for name, value in pairs if value is not None]

    @property
    def replays(self) -> int:
        """Which replay this record was when it died; 0: the first try. A damaged header counts as none."""
        value = self._header(Header.REPLAY)
        return int(value) if value.isdigit() and len(value) < 6 else 0

    @property
    def first(self) -> str:
        """``topic/partition/offset`` of the first attempt: the record itself, if it is no replay; else as that says."""
        said = self._header(Header.FIRST).decode("utf-8", "replace")
        if self.replays and parse_origin(said) is not None:
            return said
        assert self.content is not None
        origin = self.content.origin
        return f"{origin.topic}/{origin.partition}/{origin.offset}"

    def _header(self, wanted: str) -> bytes:
        return next((value for name, value in reversed(self.headers) if name == wanted), b"")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant; what is not given does not matter."""

    reasons: frozenset[str] = frozenset()
    tenant: str | None = None
    event_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def match(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        content = letter.content
        reason = content.reason.value if content is not None else UNREADABLE
        return (
            (not self.reasons or reason in self.reasons)
            and (self.tenant is None or (content is not None and content.tenant == self.tenant))
            and (self.event_id is None or (content is not None and content.event_id == self.event_id))
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One letter in a list: all that is kept of it, since there may be very many."""

    id: LetterId
    failed_at: datetime
    reason: str
    tenant: str | None
    event_id: str | None
    detail: str
    address: str | None
    attempts: int
    replays: int
    mark: Mark | None

    @classmethod
    def of(cls, letter: Letter, mark: Mark | None) -> "Row":
        """What a list says of a letter."""
        content = letter.content
        return cls(
            letter.id,
            letter.failed_at,
            content.reason.value if content is not None else UNREADABLE,
            content.tenant if content is not None else None,
            content.event_id if content is not None else None,
            content.detail if content is not None else "this record is no dead letter; discard it",
            letter.address,
            content.attempts if content is not None else 0,
            letter.replays,
            mark,
        )

    def as_dict(self) -> dict[str, Any]:
        """For programs: plain values."""
        names = ("reason", "tenant", "event_id", "detail", "address", "attempts", "replays")
        said = {name: getattr(self, name) for name in names}
        handled = None if self.mark is None else self.mark.model_dump(mode="json", include={"action", "at", "replay"})
        return {"id": str(self.id), "failed_at": _rfc3339(self.failed_at), **said, "handled": handled}


@dataclass(frozen=True, slots=True)
class Replay:
    """A letter's event as it is published again."""

    value: bytes
    key: bytes | None
    headers: Headers = field(default_factory=list)
    number: int = 1
    freshened: bool = False
    """``published_at`` was rewritten: the bytes are not the original ones."""
    expired: datetime | None = None
    """The event's deadline, if it has passed: it will die again."""

    def write(self, topic: str) -> Write:
        """The record; its partition by its key, its time the present."""
        return Write(topic, self.key, self.value, headers=self.headers)


def replay_of(letter: Letter, *, fresh: bool, now: datetime, limit_bytes: int) -> Replay:
    """The original record again, numbered; what moving or parking added to it is taken off.

    ``fresh`` makes ``now`` the event's ``published_at`` where it has one. Raises NotReplayableError.
    """
    content = letter.content
    if content is None:
        raise NotReplayableError("it is no dead letter that this version can read; discard it")
    if letter.payload is None:
        where = f"{content.origin.topic}/{content.origin.partition}/{content.origin.offset}"
        raise NotReplayableError(f"it carries no record; publish the event anew (it was at {where}), then discard it")
    value, expired = letter.payload, _expired(letter.payload, now)
    if freshened := fresh and isinstance(letter.fields, dict) and letter.fields.get("published_at") is not None:
        value = json.dumps({**letter.fields, "published_at": _rfc3339(now)}).encode("ascii")
        expired = None
    number = letter.replays + 1
    kept = [(name, content) for name, content in letter.headers if name not in _OURS]
    headers = [*kept, (Header.REPLAY, str(number).encode("ascii")), (Header.FIRST, letter.first.encode())]
    key = _decoded(content.origin.key_base64)
    size_bytes = len(value) + len(key or b"") + sum(len(name.encode()) + len(text) + 8 for name, text in headers)
    if size_bytes + _HEADER_SLACK_BYTES > limit_bytes:
        raise NotReplayableError(
            f"its record takes {size_bytes} bytes, too near to max_event_bytes ({limit_bytes}): raise that and the "
            "topic's max.message.bytes, or publish a smaller event and discard this one"
        )
    return Replay(value, key, headers, number, freshened, expired)


def _expired(payload: bytes, now: datetime) -> datetime | None:
    try:
        event: AudioEvent = decode_event(payload)
    except ContractError:
        return None
    if event.published_at is None or event.deadline_seconds is None:
        return None  # the deadline of an event without published_at counts from its new record
    try:
        due = event.published_at + timedelta(seconds=event.deadline_seconds)
    except OverflowError:
        return None
    return due if due <= now else None


def known_reasons(names: Iterable[str]) -> frozenset[str]:
    """Reason codes as given; raises ValueError that lists what there is."""
    known = {*(reason.value for reason in Reason), UNREADABLE}
    if strange := sorted(set(names) - known):
        raise ValueError(f"there is no reason {strange[0]!r}; there are: {', '.join(sorted(known))}")
    return frozenset(names)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _decoded(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
