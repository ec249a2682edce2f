"""An API's answers as the service's own words: texts, segments, confidence, language, cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from openai.types.audio import Transcription, TranscriptionVerbose

from consumer.core.languages import WITHOUT_SPACES, code_of_name
from consumer.core.prices import ApiModel
from consumer.engines.api_upload import Part
from schemas.models import EngineRef, Recognised, Segment


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost and how we know."""

    cost_usd: float
    source: str
    counted_usd: Decimal | None = None
    """What budgets count, if that is more."""


@dataclass(frozen=True, slots=True)
class HeardPart:
    """What the API heard in one part; times count from the recording's start."""

    text: str
    segments: list[Segment]
    language: str | None
    logprob_sum: float
    tokens: int
    """How many tokens ``logprob_sum`` is over; 0: the model gives none."""


def heard_part(answer: object, part: Part) -> HeardPart | None:
    """Read one answer; None if it is not a transcript (the SDK checks little, and gives HTML as a str)."""
    text = getattr(answer, "text", None)
    if not isinstance(text, str) or not isinstance(answer, Transcription | TranscriptionVerbose):
        return None
    text = writable(text).strip()
    if isinstance(answer, TranscriptionVerbose):
        segments, logprob_sum, tokens = _verbose(answer, part)
        return HeardPart(text, segments or _whole(text, part), _language(answer, "language"), logprob_sum, tokens)
    numbers = (_number(entry, "logprob") for entry in entries(answer, "logprobs"))
    logprobs = [number for number in numbers if number is not None]
    language = next((_language(one, "code") for one in entries(answer, "languages")), None)
    return HeardPart(text, _whole(text, part), language, math.fsum(logprobs), len(logprobs))


def writable(text: str) -> str:
    """The text without halves of surrogate pairs: JSON can say them, and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def entries(holder: object, name: str) -> list[object]:
    """A field that should be a list; the SDK builds its models without checking them: any field may be anything."""
    value = getattr(holder, name, None)
    return value if isinstance(value, list) else []


def _language(holder: object, name: str) -> str | None:
    value = getattr(holder, name, None)
    return code_of_name(value) if isinstance(value, str) else None


def _verbose(answer: TranscriptionVerbose, part: Part) -> tuple[list[Segment], float, int]:
    segments, logprob_sum, tokens = [], 0.0, 0
    for heard in entries(answer, "segments"):
        start, end, logprob = (_number(heard, name) for name in ("start", "end", "avg_logprob"))
        text = getattr(heard, "text", None)
        if start is None or end is None or not isinstance(text, str):
            continue
        start = min(max(0.0, start), part.audio_seconds)
        end = min(max(start, end), part.audio_seconds)
        offset = part.start_seconds
        text = writable(text).strip()
        segments.append(Segment(start_seconds=offset + start, end_seconds=offset + end, text=text))
        if logprob is not None:
            count = len(entries(heard, "tokens")) or 1
            logprob_sum += logprob * count
            tokens += count
    return segments, logprob_sum, tokens


def _number(holder: object, name: str) -> float | None:
    value = getattr(holder, name, None)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(text: str, part: Part) -> list[Segment]:
    if not text:
        return []
    end = part.start_seconds + part.audio_seconds
    return [Segment(start_seconds=part.start_seconds, end_seconds=end, text=text)]


def joined(parts: Sequence[HeardPart], language: str | None, ref: EngineRef, audio_seconds: float) -> Recognised:
    """One text of all parts, in order; confidence is exp of the mean token log-probability."""
    detected = language or next((part.language for part in parts if part.language), None)
    glue = "" if detected in WITHOUT_SPACES else " "
    tokens = sum(part.tokens for part in parts)
    mean = math.fsum(part.logprob_sum for part in parts) / tokens if tokens else None
    return Recognised(
        text=glue.join(part.text for part in parts if part.text),
        language=detected,
        segments=[segment for part in parts for segment in part.segments],
        confidence=None if mean is None else math.exp(min(0.0, mean)),
        engine=ref,
        audio_seconds=audio_seconds,
    )


def usage_of(answer: object, model: ApiModel, audio_seconds: float) -> Usage:
    """The cost by the API's own figure (seconds or tokens) where it gives one, else by ours."""
    usage = getattr(answer, "usage", None)
    seconds = _number(usage, "seconds")
    if seconds is not None and seconds >= 0:
        return Usage(float(model.usd_for_seconds(seconds)), "reported")
    given, made = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
    if isinstance(given, int) and isinstance(made, int) and given >= 0 and made >= 0:
        by_tokens: Decimal | None = model.usd_for_tokens(given, made)
        if by_tokens is not None:
            return Usage(float(by_tokens), "reported")
    return estimated(model, audio_seconds)


def estimated(model: ApiModel, audio_seconds: float) -> Usage:
    """The cost by the audio that was sent."""
    return Usage(float(model.usd_for_seconds(audio_seconds)), "estimated")


def unheard(model: ApiModel, audio_seconds: float) -> Usage:
    """Of a request that may have been worked on though no answer says so; started seconds may be billed as whole."""
    most = model.usd_for_seconds(math.ceil(audio_seconds))
    return Usage(float(model.usd_for_seconds(audio_seconds)), "estimated", counted_usd=most)
