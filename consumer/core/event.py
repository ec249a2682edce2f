"""An event on its way: what its record says, where it belongs, and what is noted about it as it goes."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.core.model import Record
from schemas.codes import Header
from schemas.models import Attempt, AudioEvent

MOVES_LIMIT = 2
"""An event that was moved so often is served where it is: somebody disagrees about who owns its digest."""

_LATEST_MS = 253_402_300_799_000
"""The last second of the year 9999."""
_TOPIC_CHARACTERS = 249
"""Kafka allows a topic's name no more."""
_SECONDS = re.compile(rb"\d{1,9}\.\d{1,6}")
_OFFSET_DIGITS = 19
"""Those of the largest offset that Kafka knows."""


@dataclass(slots=True)
class Notes:
    """What becomes known about one event while it is worked on; times in seconds."""

    record: Record
    event: AudioEvent | None = None
    digest: str | None = None
    fetch_seconds: float | None = None
    decode_seconds: float | None = None
    warnings: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    tries: int = 1
    """How often what failed in the end was tried."""
    traceparent: dict[str, str] = field(default_factory=dict)
    """The event's own span as W3C headers; what it publishes carries them on."""

    @property
    def published_at(self) -> datetime:
        """When the first record of the event was published, as it says, else as Kafka says."""
        if self.event is not None and self.event.published_at is not None:
            return self.event.published_at
        return self._recorded_at

    @property
    def waits_since(self) -> datetime:
        """When this very record came to be: an event that was moved, parked or replayed has told of its time before."""
        again = _moment(self.record.header(Header.LEFT_AT))
        if again is None and self.record.header(Header.REPLAY) is not None:
            again = self._recorded_at
        return self.published_at if again is None else max(again, self.published_at)

    @property
    def _recorded_at(self) -> datetime:
        # any publisher may write any number as a record's time
        return datetime.fromtimestamp(min(max(self.record.timestamp_ms, 0), _LATEST_MS) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Moves:
    """The headers of an event that was moved or parked, or is about to be."""

    count: int
    origin: str
    """``topic/partition/offset`` of its first record."""
    fetch_seconds: float | None = None
    """What its fetch took before it was moved, if it took place then."""

    @classmethod
    def of(cls, record: Record) -> "Moves":
        """Read them; damaged ones count as none, since anybody can write headers."""
        here = f"{record.topic}/{record.partition}/{record.offset}"
        count = _number(record.header(Header.MOVES))
        origin = (record.header(Header.ORIGIN) or b"").decode("utf-8", "replace")
        is_again = count or record.header(Header.PARKED_UNTIL) is not None
        fetch_seconds = _seconds(record.header(Header.FETCH_SECONDS)) if count else None
        return cls(count, origin if is_again and parse_origin(origin) is not None else here, fetch_seconds)


def parse_origin(text: str) -> tuple[str, int, int] | None:
    """Topic, partition and offset of an origin header; None if it is damaged."""
    parts = text.rsplit("/", 2)
    if len(parts) == 3 and 0 < len(parts[0]) <= _TOPIC_CHARACTERS and all(map(_is_number, parts[1:])):
        return parts[0], int(parts[1]), int(parts[2])
    return None


def known_digest(record: Record, event: AudioEvent, moves: Moves) -> str | None:
    """The digest that the event is filed under; None if its bytes must tell.

    A moved event without a claim carries the digest that this service computed as its key.
    """
    if event.sha256 is not None:
        return event.sha256
    key = record.key or b""
    if moves.count and len(key) == 64 and not set(key) - set(b"0123456789abcdef"):
        return key.decode("ascii")
    return None


def dedup_key(scope: str, digest: str, fingerprint: str) -> str:
    """``<scope>/<sha256>/<fingerprint>``; the scope is a tenant, or ``*`` where tenants share results."""
    return f"{scope}/{digest}/{fingerprint}"


def fingerprint(*parts: str | None) -> str:
    """Short hash of the wanted profile: whatever decides the text besides the audio."""
    joined = "\x1f".join("" if part is None else part for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _OFFSET_DIGITS


def _moment(header: bytes | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(header.decode("ascii")) if header is not None else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _seconds(header: bytes | None) -> float | None:
    return float(header) if header is not None and _SECONDS.fullmatch(header) else None


def _number(header: bytes | None) -> int:
    return int(header) if header is not None and header.isdigit() and len(header) < 6 else 0
