"""Metric events as the service writes them."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from schemas.codes import Outcome, Reason, Route
from schemas.models import Attempt, Disagreement, EngineRef, LatencySeconds, TranscriptionMetric, WordErrors

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
LOCAL = EngineRef(name="ctc", model="wav2vec2", quantization="int8")
API = EngineRef(name="openai", model="gpt-transcribe")


def metric(at: datetime = START, *, seconds: float = 1.0, **fields: Any) -> TranscriptionMetric:
    """A transcribed event that took ``seconds``, unless the fields say otherwise; a ``reason`` makes it a failure."""
    failed = fields.get("reason") is not None
    common: dict[str, Any] = {
        "event_id": "e",
        "tenant": "default",
        "outcome": Outcome.DEAD_LETTERED if failed else Outcome.TRANSCRIBED,
        "route": None if failed else Route.LOCAL,
        "engine": None if failed else LOCAL,
        "audio_seconds": None if failed else 10.0,
        "latency_seconds": LatencySeconds(total=seconds),
        "completed_at": at,
    }
    return TranscriptionMetric(**{**common, **fields})


def attempt(engine: EngineRef, cost_usd: float, outcome: str = "ok") -> Attempt:
    """A ledger line; the API is paid, the own engine is timed."""
    return Attempt(
        engine=engine.name,
        model=engine.model,
        outcome=outcome,
        audio_seconds=10.0,
        cost_usd=cost_usd,
        usage_source="reported" if engine is API else "measured",
        seconds=1.0,
    )


def paid(at: datetime = START, *, local_usd: float = 0.0, api_usd: float = 0.0, **fields: Any) -> TranscriptionMetric:
    """An event that cost something at either engine."""
    lines = [attempt(engine, cost) for engine, cost in ((LOCAL, local_usd), (API, api_usd)) if cost]
    return metric(at, cost_usd=sum(line.cost_usd for line in lines), attempts=lines, **fields)


_seconds = st.floats(0.0, 5000.0)
_usd = st.integers(0, 10_000).map(lambda microusd: microusd / 1_000_000)
_counts = st.tuples(st.integers(0, 30), st.integers(1, 30))


@st.composite
def metrics(draw: st.DrawFn, moments: st.SearchStrategy[datetime]) -> TranscriptionMetric:
    """Any metric event of one of the moments."""
    moment = draw(moments)
    reason = draw(st.none() | st.sampled_from(Reason))
    if reason is not None:
        return metric(moment, seconds=draw(_seconds), reason=reason)
    wer, disagreement = draw(st.none() | _counts), draw(st.none() | _counts)
    return paid(
        moment,
        seconds=draw(_seconds),
        tenant=draw(st.sampled_from(["acme", "beta"])),
        route=draw(st.sampled_from(Route)),
        engine=draw(st.sampled_from([LOCAL, API])),
        cached=draw(st.booleans()),
        audio_seconds=draw(_seconds),
        local_usd=draw(_usd),
        api_usd=draw(_usd),
        wer=wer and WordErrors(errors=wer[0], words=wer[1]),
        disagreement=disagreement and Disagreement(errors=disagreement[0], words=disagreement[1], against="whisper"),
    )
