"""What an API's answers say of its limits: ``x-ratelimit-{limit,remaining,reset}-{requests,audio-seconds,tokens}``."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


@dataclass(frozen=True, slots=True)
class ToldLimits:
    """The API's own figures; None where it says nothing that can be used."""

    requests: float | None = None
    """In a period."""
    audio_seconds: float | None = None
    hold_seconds: float | None = None
    """Something is used up, and is there again after so long."""


def told_limits(headers: Mapping[str, str]) -> ToldLimits:
    """Read them; they may be absent, 0 or -1, which say nothing."""
    holds = []
    for kind in ("requests", "audio-seconds", "tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        # a server that has no limits may say so with zeros
        is_limited = f"x-ratelimit-limit-{kind}" not in headers or _limit(headers, kind) is not None
        if remaining == 0 and is_limited:
            holds.append(_seconds(headers.get(f"x-ratelimit-reset-{kind}", "")))
    hold = max((seconds for seconds in holds if seconds is not None), default=None)
    return ToldLimits(_limit(headers, "requests"), _limit(headers, "audio-seconds"), hold)


def last_said(value: str) -> str:
    """A header's own value; one that came more than once reads as a list."""
    return value.rpartition(",")[2].strip()


def _limit(headers: Mapping[str, str], kind: str) -> float | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
    return limit if limit is not None and limit > 0 else None


def _number(text: str | None) -> float | None:
    try:
        number = float(last_said(text or ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(text: str) -> float | None:
    """``12ms``, ``1s``, ``6m0s``, or a bare number of seconds."""
    text = last_said(text)
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _PIECE.findall(text))
    return _number(text)
