"""``earwitness cost`` on a real metrics topic."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codec import encode
from schemas.models import BudgetEntry, TranscriptionMetric
from schemas.topics import Topics
from tests.support.cli import Earwitness, on_broker
from tests.support.kafka import Written, write_records
from tests.unit.test_cost import NOON, account, attempt, metric

pytestmark = pytest.mark.kafka


@pytest.fixture
def earwitness(
    kafka_settings: Settings,
    topics: Topics,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Earwitness:
    return on_broker(kafka_settings, tmp_path, monkeypatch, capsys)


def publish(settings: Settings, *metrics: TranscriptionMetric) -> None:
    records = [Written(encode(one), b"e", partition=number % 4) for number, one in enumerate(metrics)]
    write_records(settings.kafka_bootstrap_servers, settings.topics.metrics, records)


def _days(count: int) -> datetime:
    return NOON + timedelta(days=count)


def test_the_books_of_a_time_range_by_day_tenant_and_engine(earwitness: Earwitness, kafka_settings: Settings) -> None:
    publish(
        kafka_settings,
        metric(attempt(9.0), completed_at=_days(-1) - timedelta(hours=12, seconds=1)),
        metric(attempt(0.0045), completed_at=_days(0)),
        metric(attempt(0.0001, engine="ctc"), completed_at=_days(0), tenant="beta"),
        metric(completed_at=_days(1), cached=True, tenant="beta"),
        metric(attempt(9.0), completed_at=_days(2)),
    )
    assert earwitness("cost", "--since", "2020-11-23T00:00:00Z", "--until", "2020-11-26T12:00:00Z", "--json") == 0
    told = json.loads(earwitness.out)
    assert (told["total"]["count"], told["total"]["usd"]) == (3, 0.0046)
    assert {day: line["usd"] for day, line in told["by_day"].items()} == {"2020-11-24": 0.0046, "2020-11-25": 0.0}
    assert {tenant: line["usd"] for tenant, line in told["by_tenant"].items()} == {"acme": 0.0045, "beta": 0.0001}
    assert [(line["engine"], line["usd"]) for line in told["by_engine"]] == [("openai", 0.0045), ("ctc", 0.0001)]
    assert told["cache_share"] == pytest.approx(1 / 3)
    what_if = told["per_million_minutes"]
    assert what_if["all_api_usd"] == pytest.approx(3000)
    assert what_if["all_local_usd"] == pytest.approx(100 * 2 / 3)
    assert what_if["this_policy_usd"] == pytest.approx(0.0046 / 3 * 1e6)


def test_the_same_as_a_table_and_a_time_without_events_says_so(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    publish(kafka_settings, metric(attempt(0.0045, outcome="engine_failed"), attempt(0.0045), completed_at=_days(0)))
    assert earwitness("cost", "--since", "2020-11-24T00:00:00Z", "--until", "2020-11-25T00:00:00Z") == 0
    assert "1 events, $0.009" in earwitness.out
    assert "of these, 1 tries failed, and cost $0.0045" in earwitness.out
    assert "all by the API (gpt-transcribe)     $4,500.00" in earwitness.out
    assert "all by one's own engine             unknown: it heard nothing in this time" in earwitness.out
    assert earwitness("cost", "--since", "2019-01-01T00:00:00Z", "--until", "2019-02-01T00:00:00Z") == 0
    assert earwitness.out == "no event was completed from 2019-01-01 00:00 to 2019-02-01 00:00 UTC\n"


def test_a_time_that_is_none_is_wrong_usage(earwitness: Earwitness) -> None:
    assert earwitness("cost", "--since", "yesterday") == 2
    assert "neither a time" in earwitness.err


def test_the_months_last_moment_counts_in_its_utc_day(earwitness: Earwitness, kafka_settings: Settings) -> None:
    last = datetime.fromisoformat("2020-11-30T20:30:00-03:30")
    publish(kafka_settings, metric(attempt(0.0045), completed_at=last.astimezone(UTC)))
    assert earwitness("cost", "--since", "2020-11-30T00:00:00Z", "--until", "2020-12-02T00:00:00Z", "--json") == 0
    assert list(json.loads(earwitness.out)["by_day"]) == ["2020-12-01"]


def test_what_a_dead_process_had_reserved_is_a_line_of_its_own(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    publish(kafka_settings, metric(attempt(0.0045), completed_at=_days(0)))
    entries = [
        (lane, BudgetEntry(partition=lane, accounts=[account("2020-11-24", spent)], at=NOON))
        for lane, spent in ((0, 1), (0, 6000), (1, 500))
    ]
    records = [Written(encode(entry), f"g/{lane}".encode(), partition=lane) for lane, entry in entries]
    records += [Written(None, b"!sentinel", partition=0), Written(b"?", b"g/2", partition=2)]
    write_records(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.budget, records)
    asked = ("cost", "--since", "2020-11-23T00:00:00Z", "--until", "2020-11-26T00:00:00Z")
    assert earwitness(*asked) == 0
    assert "not settled yet: $0.002 more, which the budget of 2020-11-24 counts as spent" in earwitness.out
    assert "a record on" in earwitness.err
    assert earwitness(*asked, "--json") == 0
    assert json.loads(earwitness.out)["reserved_and_lost_usd"] == {"2020-11-24": 0.002}
