"""The tally's sums are those of the metrics topic: whatever outcomes come, a recount of their metric events agrees."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core.event import Notes
from consumer.core.model import Record
from consumer.core.outcomes import DeadLettered, DedupWrite, Moment, Moved, Settlement, Transcribed
from consumer.core.tally import Latest, Tally
from schemas.codes import Reason, Route
from schemas.models import Attempt, AudioEvent, EngineRef, Recognised, WordErrors
from schemas.topics import Topics

TOPICS = Topics("audio")
START = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "ab" * 32


def _notes(*attempts: Attempt) -> Notes:
    record = Record("audio.events", 0, 0, round(START.timestamp() * 1000), None, b"{}")
    event = AudioEvent(event_id="e", uri="file:///a", tenant="t")
    return Notes(record, event, DIGEST, attempts=list(attempts))


attempts = st.builds(
    Attempt,
    engine=st.sampled_from(["ctc", "openai"]),
    model=st.just("m"),
    outcome=st.sampled_from(["ok", "engine_failed"]),
    audio_seconds=st.just(1.0),
    cost_usd=st.floats(0, 0.1).map(lambda usd: round(usd, 6)),
    seconds=st.just(1.0),
)
notes = st.lists(attempts, max_size=2).map(lambda lines: _notes(*lines))
transcribed = st.builds(
    lambda notes_, route, cached, lines, wer, seconds: Transcribed(
        notes_,
        Recognised(text="words", engine=EngineRef(name="x", model="m"), audio_seconds=seconds),
        route,
        cached,
        attempts=tuple(lines),
        wer=wer,
        dedup=None if cached else DedupWrite("t/d/f", 0),
    ),
    notes,
    st.sampled_from([Route.LOCAL, Route.CACHE, Route.BREAKER_OPEN]),
    st.booleans(),
    st.lists(attempts, max_size=2),
    st.none() | st.builds(WordErrors, errors=st.integers(0, 9), words=st.integers(1, 9)),
    st.integers(1, 4000).map(float),
)
dead_lettered = st.builds(
    lambda notes_, reason: DeadLettered(notes_, reason, "what went wrong", "e", "t"),
    notes,
    st.sampled_from([Reason.POISON, Reason.NOT_FOUND]),
)
moved = notes.map(lambda notes_: Moved(notes_, DIGEST, 1))
outcomes: st.SearchStrategy[Settlement] = st.one_of(transcribed, dead_lettered, moved)


@given(st.lists(st.tuples(outcomes, st.floats(0, 20)), max_size=25))
@settings(max_examples=60)
def test_the_sums_are_those_of_a_recount_of_the_metric_events(told: list[tuple[Settlement, float]]) -> None:
    tally, metrics, sent, now = Tally(), [], Counter[str](), START
    for outcome, passed in told:
        now += timedelta(seconds=passed)
        moment = Moment(now, 0.1)
        writes = outcome.writes(TOPICS, moment, 1_000_000)
        tally.add(outcome, moment, writes, passed)
        sent.update(write.topic for write in writes)
        metrics += [json.loads(write.value or b"") for write in writes if write.topic == TOPICS.metrics]
    _agrees(tally, metrics)
    assert tally.sent == sent
    assert tally.moved == sum(isinstance(outcome, Moved) for outcome, _ in told)
    recent = [metric for metric in metrics if _age_seconds(metric, now) < 59]
    events_per_second, _ = tally.per_second(now.timestamp())
    assert events_per_second * 60 >= len(recent)


def _agrees(tally: Tally, metrics: list[dict[str, Any]]) -> None:
    assert tally.settled == len(metrics)
    good = [metric for metric in metrics if metric["outcome"] == "transcribed"]
    assert tally.transcribed == Counter((metric["route"], metric["cached"]) for metric in good)
    assert tally.dead_letters == Counter(metric["reason"] for metric in metrics if metric["reason"])
    assert sum(tally.audio_seconds.values()) == sum(metric["audio_seconds"] for metric in good)
    lines = [line for metric in metrics for line in metric["attempts"]]
    assert tally.attempts == Counter((line["engine"], line["model"], line["outcome"]) for line in lines)
    assert sum(tally.cost_usd.values()) == sum(Decimal(str(line["cost_usd"])) for line in lines)
    judged = [metric["wer"] for metric in metrics if metric["wer"]]
    assert tally.wrong_words == sum(wer["errors"] for wer in judged)
    assert tally.reference_words == sum(wer["words"] for wer in judged)


def _age_seconds(metric: dict[str, Any], now: datetime) -> float:
    return (now - datetime.fromisoformat(metric["completed_at"])).total_seconds()


def _tell(tally: Tally, *latencies: float) -> float:
    for seconds in latencies:
        outcome = Transcribed(
            _notes(),
            Recognised(text="secret", engine=EngineRef(name="x", model="m"), audio_seconds=1.0),
            Route.LOCAL,
            cached=False,
        )
        tally.add(outcome, Moment(START + timedelta(seconds=seconds), 0.1), [], seconds)
    return (START + timedelta(seconds=max(latencies))).timestamp()


def test_quantiles_are_of_the_last_five_minutes() -> None:
    tally = Tally()
    now = _tell(tally, *range(1, 101))
    found = tally.latency(now)
    assert found is not None
    assert (found.count, found.p50, found.p95, found.p99) == (100, 50.0, 95.0, 99.0)
    assert tally.latency(now + 301) is None


@pytest.mark.parametrize(("shows", "text"), [(False, None), (True, "secret")])
def test_texts_are_told_only_where_they_may_be_shown(shows: bool, text: str | None) -> None:
    tally = Tally(show_texts=shows)
    _tell(tally, 1.0)
    told = Moment(START, 0.1)
    tally.add(DeadLettered(_notes(), Reason.POISON, "secret", "e", "t"), told, [], 0.0)
    assert [latest.text for latest in (*tally.transcripts, *tally.letters)] == [text, text]


def test_the_latest_outcomes_are_a_few_and_the_newest_are_last() -> None:
    tally = Tally()
    _tell(tally, *range(50))
    shown: list[Latest] = list(tally.transcripts)
    assert len(shown) == 20
    assert shown[-1].latency_seconds == 49.0
