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
    text = text.strip()
    if isinstance(answer, TranscriptionVerbose):
        segments, logprob_sum, tokens = _verbose(answer, part)
        return HeardPart(text, segments or _whole(text, part), code_of_name(answer.language), logprob_sum, tokens)
    numbers = (_number(entry, "logprob") for entry in answer.logprobs or ())
    logprobs = [number for number in numbers if number is not None]
    languages = answer.languages or []
    language = code_of_name(languages[0].code) if languages else None
    return HeardPart(text, _whole(text, part), language, math.fsum(logprobs), len(logprobs))


def _verbose(answer: TranscriptionVerbose, part: Part) -> tuple[list[Segment], float, int]:
    segments, logprob_sum, tokens = [], 0.0, 0
    for heard in answer.segments or ():
        # the SDK builds its models without checking them: any field may be anything
        start, end, logprob = (_number(heard, name) for name in ("start", "end", "avg_logprob"))
        if start is None or end is None:
            continue
        start = min(max(0.0, start), part.audio_seconds)
        end = min(max(start, end), part.audio_seconds)
        offset = part.start_seconds
        segments.append(Segment(start_seconds=offset + start, end_seconds=offset + end, text=str(heard.text).strip()))
        if logprob is not None:
            count = len(getattr(heard, "tokens", None) or ()) or 1
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
        confidence=None if mean is None else min(1.0, math.exp(mean)),
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
    if isinstance(given, int) and isinstance(made, int):
        by_tokens: Decimal | None = model.usd_for_tokens(given, made)
        if by_tokens is not None:
            return Usage(float(by_tokens), "reported")
    return estimated(model, audio_seconds)


def estimated(model: ApiModel, audio_seconds: float) -> Usage:
    """The cost by the audio that was sent."""
    return Usage(float(model.usd_for_seconds(audio_seconds)), "estimated")
