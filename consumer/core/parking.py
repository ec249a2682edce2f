"""What a parked event's headers say: why it waits, until when, its own key, and what it has cost so far; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from pydantic import TypeAdapter, ValidationError

from consumer.core.model import Record
from schemas.codes import Header, Hold
from schemas.models import Attempt

Headers = Sequence[tuple[str, bytes]]

PARKED_HEADERS = (Header.PARKED_UNTIL, Header.PARKED_FOR, Header.PARKED_KEY, Header.PARKED_ATTEMPTS)
_ATTEMPTS = TypeAdapter(list[Attempt])
_FREE_AT_MOST = 20
"""Ledger lines of tries that cost nothing: an event that is parked again and again must not grow without end."""


@dataclass(frozen=True, slots=True)
class Waited:
    """What an event that was parked has waited for, and what it had cost by then."""

    why: str
    until: float
    """Seconds since 1970."""
    attempts: list[Attempt]

    @classmethod
    def of(cls, record: Record) -> "Waited | None":
        """Read it from an event that has come back; None if it never was away. Damaged headers say nothing."""
        if record.header(Header.PARKED_UNTIL) is None:
            return None
        why = (record.header(Header.PARKED_FOR) or b"").decode("utf-8", "replace")
        return cls(why, due_at(record.headers), _decode_attempts(record.header(Header.PARKED_ATTEMPTS)))

    def has_waited_for(self, why: Hold, now: float) -> bool:
        """Whether it need not wait for that again: it was parked for it once, and came back when due."""
        return self.why == why and self.until <= now


def due_at(headers: Headers) -> float:
    """Before which moment, in seconds since 1970, a parked event does not come back; what is damaged is due."""
    said = next((value for name, value in headers if name == Header.PARKED_UNTIL), b"")
    try:
        return datetime.fromisoformat(said.decode("ascii")).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def as_it_was(headers: Headers) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """The event's own key, and its headers as it comes back: it goes on saying what it has waited for."""
    key = next((value for name, value in headers if name == Header.PARKED_KEY), None)
    return key, [(name, value) for name, value in headers if name != Header.PARKED_KEY]


def carried(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The ledger lines that go along: all that cost something, and the latest of the others."""
    free = [number for number, attempt in enumerate(attempts) if attempt.cost_usd <= 0]
    dropped = set(free[:-_FREE_AT_MOST])
    return [attempt for number, attempt in enumerate(attempts) if number not in dropped]


def encode_attempts(attempts: list[Attempt]) -> bytes:
    """Ledger lines for a header."""
    return orjson.dumps([attempt.model_dump() for attempt in attempts])


def _decode_attempts(value: bytes | None) -> list[Attempt]:
    try:
        lines = _ATTEMPTS.validate_json(value) if value else []
    except ValidationError:
        return []
    # anybody can write headers: what no try costs or lasts must not get into the books
    return [line for line in lines if all(0 <= number < math.inf for number in (line.cost_usd, line.audio_seconds))]
