"""Between people and bytes: addresses without secrets, text that is safe to print, times as people say them."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d{1,6})([smhdw])")


def shown_address(uri: str) -> str:
    """An address without query and user, which may be secrets."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(an address that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parsed(payload: bytes | None) -> Any:
    """Bytes as JSON; None where they are none."""
    try:
        return json.loads(payload or b"")
    except (ValueError, RecursionError):
        return None


def visible(text: str) -> str:
    """Text that anybody may have written, safe for a terminal: what cannot be printed is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def encodable(text: str) -> str:
    """Text that may hold bytes of a file name that are no UTF-8, with those escaped: it can be written and sent."""
    return text.encode("utf-8", "backslashreplace").decode()


def preview(data: bytes, limit: int = 512) -> str:
    """The beginning of any bytes: as text with escapes where they are text, else in hex."""
    head, more = data[:limit], f" … ({len(data)} bytes in all)" if len(data) > limit else ""
    try:
        # a character cut in two at the end is no reason for hex
        text = head.decode("utf-8") if not more else head.decode("utf-8", "ignore")
        if more and len(text.encode()) < len(head) - 3:
            raise ValueError("not text")  # noqa: TRY301 (decided like a failure to decode)
    except ValueError:
        return head.hex(" ") + more
    return visible(text) + more


def parse_moment(text: str, now: datetime) -> datetime:
    """An RFC 3339 time, or how long ago (``90s``, ``15m``, ``2h``, ``3d``, ``1w``). Raises ValueError."""
    if found := _SPAN.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError as error:
            raise ValueError(f"{text!r} is too long ago") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is neither a time such as 2026-01-31T12:00:00Z nor a span such as 2h or 3d"
        ) from error
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; say {text}Z for UTC" if "T" in text else f"say {text}T00:00:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is outside of the years 1 to 9999 in UTC") from error
