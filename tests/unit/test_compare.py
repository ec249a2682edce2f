"""Engine against engine: sums rather than means, and intervals that hold what they promise."""

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.core.compare import REFERENCE, Comparison, Group, Row
from consumer.settings import Settings
from schemas.codec import encode
from schemas.models import Disagreement, EngineRef, EngineWordErrors, TranscriptionMetric, WordErrors, utc_now
from schemas.topics import Topics
from tests.support.cli import on_broker
from tests.support.kafka import Written, write_records
from tests.support.metrics import attempt
from tests.unit.test_cost import metric

CTC = EngineRef(name="ctc", model="m")
API = EngineRef(name="openai", model="gpt-transcribe")


def _scored(errors: int, words: int, event_id: str = "e", **changes: Any) -> TranscriptionMetric:
    fields = {"engine": CTC, "language": "en", "wer": WordErrors(errors=errors, words=words), "event_id": event_id}
    return metric(**{**fields, **changes})


def _compared(*metrics: TranscriptionMetric) -> dict[Group, Row]:
    comparison = Comparison()
    for one in metrics:
        comparison.add(one)
    return {row.group: row for row in comparison.rows()}


def test_a_rate_is_the_quotient_of_sums_in_every_group_that_an_event_is_in() -> None:
    found = _compared(
        _scored(1, 2),
        _scored(1, 98, tenant="beta", language="de", audio_seconds=3.0),
        _scored(3, 10, engine=API, language=None, audio_seconds=600.0),
    )
    rates = {key: (row.events, row.errors, row.words) for key, row in found.items()}
    ctc, api = ("ctc m", REFERENCE), ("openai gpt-transcribe", REFERENCE)
    assert rates == {
        ("all", "", *ctc): (2, 2, 100),
        ("all", "", *api): (1, 3, 10),
        ("language", "de", *ctc): (1, 1, 98),
        ("language", "en", *ctc): (1, 1, 2),
        ("language", "unknown", *api): (1, 3, 10),
        ("length", "under 5 s", *ctc): (1, 1, 98),
        ("length", "30 s to 5 min", *ctc): (1, 1, 2),
        ("length", "5 min and more", *api): (1, 3, 10),
        ("tenant", "acme", *ctc): (1, 1, 2),
        ("tenant", "acme", *api): (1, 3, 10),
        ("tenant", "beta", *ctc): (1, 1, 98),
    }
    assert found[Group("all", "", *ctc)].rate == 0.02
    assert list(found)[:2] == [("all", "", *ctc), ("all", "", *api)], "the whole comes first"


def test_a_disagreement_is_a_row_of_its_own_and_a_cached_text_counts_once() -> None:
    second = Disagreement(errors=2, words=20, against="openai")
    found = _compared(
        _scored(1, 20, disagreement=second), _scored(1, 20, cached=True), metric(engine=CTC), metric(engine=None)
    )
    assert found[Group("all", "", "ctc m", "openai")].rate == 0.1
    assert found[Group("all", "", "ctc m", REFERENCE)].events == 1


def test_a_second_engine_is_held_against_the_reference_too_and_what_both_cost_is_added_up() -> None:
    comparison = Comparison()
    second = EngineWordErrors(errors=4, words=20, engine=API)
    lines = [attempt(CTC, 0.25), attempt(API, 0.5, "engine_failed"), attempt(API, 0.5)]
    correction = lines[0].model_copy(update={"engine": "refine"})
    comparison.add(_scored(1, 20, shadow_wer=second, attempts=[*lines, correction]))
    comparison.add(_scored(1, 20, cached=True, shadow_wer=second, attempts=lines))
    comparison.add(metric(engine=CTC, attempts=lines))
    rates = {row.group.engine: row.rate for row in comparison.rows() if row.group.by == "all"}
    assert rates == {"ctc m": 0.05, "openai gpt-transcribe": 0.2}
    costs = {engine: (cost.count, cost.audio_seconds, cost.usd) for engine, cost in comparison.costs.items()}
    assert costs == {
        "ctc m": (1, Decimal(10), Decimal("0.25")),
        "openai gpt-transcribe": (2, Decimal(20), Decimal(1)),
    }


def test_the_same_events_give_the_same_interval_in_any_order_and_few_events_give_none() -> None:
    events = [_scored(number % 3, 20, f"e{number}") for number in range(200)]
    key = Group("all", "", "ctc m", REFERENCE)
    there = _compared(*events)[key]
    random.Random(1).shuffle(events)
    assert _compared(*events)[key] == there
    assert there.interval is not None
    assert there.interval[0] < there.rate < there.interval[1]
    assert _compared(*events[:9])[key].interval is None


def test_ninety_five_in_a_hundred_intervals_hold_the_true_rate() -> None:
    dice, held = np.random.default_rng(7), 0
    for trial in range(100):
        words = dice.integers(5, 40, 120)
        events = [
            _scored(int(dice.binomial(count, 0.1)), int(count), f"{trial}-{number}")
            for number, count in enumerate(words)
        ]
        comparison = Comparison()
        for one in events:
            comparison.add(one)
        interval = next(comparison.rows()).interval
        assert interval is not None
        held += interval[0] <= 0.1 <= interval[1]
    assert 88 <= held <= 100


@pytest.mark.kafka
def test_the_command_reads_the_metrics_topic_and_prints_a_table_or_json(
    kafka_settings: Settings,
    topics: Topics,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    earwitness = on_broker(kafka_settings, tmp_path, monkeypatch, capsys)
    assert earwitness("compare") == 0
    assert "no event had a reference text" in earwitness.out
    events = [
        _scored(
            1, 20, f"e{number}", completed_at=utc_now(), disagreement=Disagreement(errors=3, words=20, against="openai")
        )
        for number in range(12)
    ]
    write_records(
        kafka_settings.kafka_bootstrap_servers, topics.metrics, [Written(encode(one), b"e") for one in events]
    )
    assert earwitness("compare", "--hours", "1", "--json") == 0
    told = {(row["by"], row["against"]): row for row in json.loads(earwitness.out)["rows"]}
    whole = told["all", REFERENCE]
    assert (whole["events"], whole["words"], whole["rate"], whole["low"], whole["high"]) == (12, 240, 0.05, 0.05, 0.05)
    assert told["tenant", "openai"]["rate"] == 0.15
    assert earwitness("compare") == 0
    assert "all                      ctc m   openai" in earwitness.out
    assert "15.00%" in earwitness.out
