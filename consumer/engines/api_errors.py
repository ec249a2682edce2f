"""What an exception of the openai SDK means for the recording, for the next try, and for the breaker."""

import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import httpx2
import openai

from consumer.engines.api_limits import last_said
from consumer.errors import EventError, ReasonedError, RecordingError, SlowDownError, TransientError
from schemas.codes import Reason

_BILLING = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
_BILLING_SUFFIX = "_spend_limit_exceeded"
_OURS = frozenset({"model", "response_format", "include", "include[]", "timestamp_granularities"})
"""Request fields that the settings decide: a refusal of one says nothing about the recording."""
_RECORDING_STATUS = frozenset({400, 413, 415, 422})
_PASSING_STATUS = frozenset({408, 409})
_SECRET = re.compile(r"sk-[\w*.\-]+|(?i:bearer)\s+\S+|(?i:api[-_ ]?key)[\"':= ]+\S+")


class Blame(StrEnum):
    """What the breaker makes of it."""

    FAILURE = "failure"
    TRIP = "trip"
    """Every further request would fail alike, until a person acts."""
    NONE = "none"
    """The API works: the recording or the pace is at fault."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """An exception, understood."""

    error: ReasonedError
    blame: Blame
    again: bool
    """Worth trying again at once (after a wait)."""
    maybe_billed: bool
    """The request may have been worked on, and so paid for."""


def garbled(what: str) -> Meaning:
    """A 200 that holds no transcript: heard, perhaps paid for, and lost."""
    error = TransientError(Reason.ENGINE_FAILED, f"the API answered 200 with {what} instead of a transcript")
    return Meaning(error, Blame.FAILURE, again=True, maybe_billed=True)


def meaning_of(error: Exception, now_unix: float, api_key: str = "") -> Meaning:
    """Read what the SDK, or the wall-clock limit around it, raised. ``now_unix`` serves Retry-After dates."""
    match error:
        case openai.APIStatusError():
            return _of_status(error, now_unix, api_key)
        case openai.APIResponseValidationError():
            return garbled("something else")
        case openai.APITimeoutError() | TimeoutError():
            # a connection that never came about carried nothing; a silent one may have been worked on
            sent = not isinstance(error.__cause__, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return _passing("the API did not answer in time", maybe_billed=sent)
        case openai.APIConnectionError():
            if isinstance(error.__cause__, httpx2.ConnectError):
                return _passing("the API cannot be reached; check OPENAI_BASE_URL and the network", maybe_billed=False)
            return _passing("the connection to the API broke", maybe_billed=True)
        case ValueError() | RecursionError():  # JSONDecodeError and UnicodeDecodeError among them
            return garbled("broken JSON")
        case _:
            return _passing(f"the API client failed: {type(error).__name__}", maybe_billed=False)


def _of_status(error: openai.APIStatusError, now_unix: float, api_key: str) -> Meaning:
    status, headers = error.status_code, error.response.headers
    said = f"the API answered {status}{_detail(error, api_key)}"
    if is_billing(error):
        return _tripped(f"{said}: out of credit or over a spend limit; raise it at the API's billing page")
    if status == 429:
        asked = retry_after_seconds(headers, now_unix)
        slow = SlowDownError(Reason.ENGINE_FAILED, f"{said}: too many requests", retry_after_seconds=asked)
        return Meaning(slow, Blame.NONE, again=_may_retry(headers), maybe_billed=False)
    if status in (401, 403):
        # what it says may repeat a part of the key
        return _tripped(f"the API answered {status}: it refuses the key; check OPENAI_API_KEY and its project")
    if status in _RECORDING_STATUS:
        return _of_refusal(error, said)
    if status >= 500 or status in _PASSING_STATUS:
        asked = retry_after_seconds(headers, now_unix)
        failed = TransientError(Reason.ENGINE_FAILED, said, retry_after_seconds=asked)
        return Meaning(failed, Blame.FAILURE, again=_may_retry(headers), maybe_billed=False)
    return _tripped(f"{said}; check EARWITNESS_API_MODEL and OPENAI_BASE_URL")


def _of_refusal(error: openai.APIStatusError, said: str) -> Meaning:
    if str(error.param) in _OURS or error.code == "model_not_found":
        return _tripped(f"{said}; check EARWITNESS_API_MODEL")
    if error.param == "language":
        wrong = EventError(Reason.UNSUPPORTED_LANGUAGE, f"{said}; publish the event without a language")
        return Meaning(wrong, Blame.NONE, again=False, maybe_billed=False)
    refused = RecordingError(Reason.API_REJECTED, f"{said}; check that the recording plays")
    return Meaning(refused, Blame.NONE, again=False, maybe_billed=False)


def _passing(detail: str, *, maybe_billed: bool) -> Meaning:
    return Meaning(TransientError(Reason.ENGINE_FAILED, detail), Blame.FAILURE, again=True, maybe_billed=maybe_billed)


def _tripped(detail: str) -> Meaning:
    return Meaning(TransientError(Reason.ENGINE_FAILED, detail), Blame.TRIP, again=False, maybe_billed=False)


def is_billing(error: openai.APIStatusError) -> bool:
    """Whether more requests only cost time until somebody pays; a pace limit is not that."""
    marks = {str(error.code), str(error.type)}
    billing = bool(marks & _BILLING) or any(mark.endswith(_BILLING_SUFFIX) for mark in marks)
    return error.status_code == 402 or (error.status_code < 500 and billing)


def retry_after_seconds(headers: Mapping[str, str], now_unix: float) -> float | None:
    """How long the API asks to wait: ``retry-after-ms``, else ``retry-after`` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            asked = float(last_said(headers[name])) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(asked) and asked > 0:
            return asked
    parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if parsed is None:
        return None
    try:
        return max(0.0, email.utils.mktime_tz(parsed) - now_unix) or None
    except (ValueError, OverflowError):
        return None


def _may_retry(headers: Mapping[str, str]) -> bool:
    return last_said(headers.get("x-should-retry", "")).lower() != "false"


def _detail(error: openai.APIStatusError, api_key: str) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, Mapping) else None
    said = f" ({scrubbed(message, api_key)})" if isinstance(message, str) and message else ""
    request = f" [request {error.request_id}]" if error.request_id else ""
    return f"{said}{request}"


def scrubbed(text: str, api_key: str) -> str:
    """Another party's words, short, on one line, without anything that looks like a key."""
    if api_key:
        text = text.replace(api_key, "***")
    return " ".join(_SECRET.sub("***", text).split())[:300]
