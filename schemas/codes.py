"""Every code that the contract knows, once: reasons, routes, warnings, alerts, and header names.

Codes are added, never reused for another meaning.
"""

from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = 1


class Reason(StrEnum):
    """Why an event became a dead letter."""

    INVALID_JSON = "invalid_json"
    INVALID_EVENT = "invalid_event"
    UNSUPPORTED_VERSION = "unsupported_version"
    URI_NOT_ALLOWED = "uri_not_allowed"
    NOT_FOUND = "not_found"
    NOT_A_FILE = "not_a_file"
    ACCESS_DENIED = "access_denied"
    FETCH_FAILED = "fetch_failed"
    FETCH_TIMEOUT = "fetch_timeout"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    DIGEST_MISMATCH = "digest_mismatch"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT_AUDIO = "corrupt_audio"
    TOO_LONG = "too_long"
    DECODE_LIMIT = "decode_limit"
    POISON = "poison"
    ENGINE_FAILED = "engine_failed"
    API_REJECTED = "api_rejected"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    BUDGET_EXHAUSTED = "budget_exhausted"
    UNSUPPORTED_LANGUAGE = "unsupported_language"


class Route(StrEnum):
    """Which way an event was served, and so why."""

    LOCAL = "local"
    CACHE = "cache"
    POLICY = "policy"
    BREAKER_OPEN = "breaker_open"
    DEADLINE = "deadline"
    OFF_PEAK = "off_peak"
    BUDGET_EXHAUSTED = "budget_exhausted"
    REFINE = "refine"


class Hold(StrEnum):
    """What an event waits for."""

    OFF_PEAK = "off_peak"
    """It may wait, and waits for the cheap hours."""
    BUDGET_EXHAUSTED = "budget_exhausted"
    """The budget of the day or the month is used up."""
    ENGINE = "engine"
    """The only engine that can serve it has asked for patience."""


class WarningCode(StrEnum):
    """What a reader of a transcript should know about it."""

    WORDS_DROPPED = "words_dropped"
    """The transcript was too large for its topic; it was published without ``words``."""
    SEGMENTS_DROPPED = "segments_dropped"
    """It was still too large, and was published without ``segments`` too."""
    METADATA_DROPPED = "metadata_dropped"
    """And at last without the event's ``metadata``."""
    NO_SPEECH = "no_speech"
    """No speech was found: no model was asked, or what it heard was no words."""
    SILENCE_SKIPPED = "silence_skipped"
    """Stretches without speech were not given to the model; they lie between and beside the segments."""
    SEAM_UNCERTAIN = "seam_uncertain"
    """Two chunks disagreed about the words where they overlap."""
    REPETITION = "repetition"
    """The model repeated itself; a stretch was heard again with repeats forbidden."""
    TOO_MANY_WORDS = "too_many_words"
    """More words came out than can be said in the time; a stretch was heard again."""
    UNSURE_WORDS = "unsure_words"
    """The model was unsure of its words; a stretch was heard again, and the likelier text kept."""
    TEXT_DROPPED = "text_dropped"
    """The text of a stretch was most likely made up, since nobody seems to speak there, and was left out."""
    REFINE_FAILED = "refine_failed"
    """The text was to be corrected by a language model, which did not answer, or may not be paid now."""
    REFINE_REJECTED = "refine_rejected"
    """The language model's answer is too far from what was heard to be a correction of it."""
    DIGEST_CHANGED = "digest_changed"
    """The recording changed at its address after the event was moved; the new bytes were used."""
    SERVED_AWAY = "served_away"
    """The event was moved twice and was then served in a partition that does not own its digest."""


class Outcome(StrEnum):
    """How an event ended."""

    TRANSCRIBED = "transcribed"
    DEAD_LETTERED = "dead_lettered"


class Header:
    """Record header names."""

    TRACEPARENT: Final = "traceparent"
    TRACESTATE: Final = "tracestate"
    MOVES: Final = "earwitness-moves"
    """How often the event was moved to another partition, in decimal."""
    ORIGIN: Final = "earwitness-origin"
    """``topic/partition/offset`` of the event's first record."""
    LEFT_AT: Final = "earwitness-left-at"
    """When the event was last moved or parked, as RFC 3339: since then it has waited for its next lane."""
    FETCH_SECONDS: Final = "earwitness-fetch-seconds"
    """How long its fetch took, if it was fetched before it was moved, in decimal."""
    REPLAY: Final = "earwitness-replay"
    """Which replay of a dead letter this record is, in decimal."""
    FIRST: Final = "earwitness-first"
    """``topic/partition/offset`` of the record that was replayed first: the first attempt."""
    PARKED_UNTIL: Final = "earwitness-parked-until"
    """Before which moment a parked event does not come back, as RFC 3339; it keeps this header when it does."""
    PARKED_FOR: Final = "earwitness-parked-for"
    """What it waits for, or has waited for: a ``Hold``."""
    PARKED_KEY: Final = "earwitness-parked-key"
    """The event's own key while it is parked; absent if it had none."""
    PARKED_ATTEMPTS: Final = "earwitness-parked-attempts"
    """What was tried before it was parked: ledger lines as a JSON array."""
