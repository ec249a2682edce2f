"""Alerts are raised once, stay raised while it is bad, and are cleared once it has been well for a while."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.alerts import CLEAR_SECONDS, Alerts, LagTrend, Limits, Windows, verdicts
from consumer.core.budget import EVERYBODY, Key, Standing
from schemas.codes import Reason, Route
from schemas.models import Alert, Disagreement, TranscriptionMetric, WordErrors
from tests.support.metrics import START, metric, metrics

LIMITS = Limits(
    latency_p95_seconds=60.0,
    error_rate=0.05,
    quality_drop=0.2,
    dead_letters=0,
    lag_growth=100,
    min_events=20,
    min_words=1000,
)


class Watching:
    """Windows and alerts, looked at whenever a test says so."""

    def __init__(self, limits: Limits = LIMITS, raised: Iterable[Alert] = ()) -> None:
        self.windows, self.alerts = Windows(), Alerts(limits, {alert.name: alert for alert in raised})

    def events(self, count: int, at: datetime, *, now: datetime | None = None, **fields: object) -> None:
        for _ in range(count):
            self.windows.add(metric(at, **fields), now or at)  # type: ignore[arg-type]

    def look(self, now: datetime, lag_growth: int | None = 0, budgets: Sequence[Standing] = ()) -> list[Alert]:
        return self.alerts.judge(self.windows.seen(now, budgets), lag_growth, now)

    def told(self, now: datetime, lag_growth: int | None = 0) -> list[tuple[str, str]]:
        return [(alert.name, alert.state) for alert in self.look(now, lag_growth)]


def after(**span: float) -> datetime:
    return START + timedelta(**span)


def test_slow_events_raise_once_and_fast_ones_clear_it_after_five_good_minutes() -> None:
    watching = Watching()
    watching.events(18, START, seconds=1.0)
    watching.events(2, START, seconds=90.0)

    (alert,) = watching.look(after(seconds=1))
    assert (alert.name, alert.state, alert.threshold, alert.window_seconds) == ("latency_high", "raised", 60.0, 300.0)
    assert alert.value == pytest.approx(90.0, rel=0.011)
    assert watching.told(after(seconds=11)) == []

    for minute in range(6, 11):
        watching.events(20, after(minutes=minute), seconds=1.0)
        assert watching.told(after(minutes=minute)) == []
    watching.events(1, after(minutes=11), seconds=1.0)
    assert watching.told(after(minutes=11, seconds=1)) == [("latency_high", "cleared")]


def test_too_few_events_raise_nothing_until_a_longer_window_holds_enough() -> None:
    watching = Watching()
    for minutes in range(0, 57, 3):
        watching.events(1, after(minutes=minutes), seconds=90.0)
        assert watching.told(after(minutes=minutes)) == []
    watching.events(1, after(minutes=57), seconds=90.0)

    (alert,) = watching.look(after(minutes=57))
    assert (alert.name, alert.window_seconds) == ("latency_high", 3600.0)


def test_a_bad_stretch_that_is_over_is_not_raised_by_the_longer_windows() -> None:
    watching = Watching()
    watching.events(100, START, seconds=90.0)
    watching.events(5, after(minutes=20), seconds=1.0)

    assert watching.told(after(minutes=20)) == []


def test_a_raised_alert_outlasts_a_silence_and_is_cleared_after_an_hour_of_it() -> None:
    watching = Watching()
    watching.events(20, START, seconds=90.0)
    assert watching.told(START) == [("latency_high", "raised")]

    assert watching.told(after(minutes=50)) == []
    assert watching.told(after(minutes=61)) == []
    assert watching.told(after(minutes=67)) == [("latency_high", "cleared")]


def test_a_value_that_trembles_about_its_threshold_raises_once() -> None:
    watching = Watching()
    told = []
    for minute in range(0, 120, 2):
        watching.events(20, after(minutes=minute), seconds=62.0 if minute % 12 < 6 else 40.0)
        told += watching.told(after(minutes=minute))

    assert told == [("latency_high", "raised")]


def test_dead_letters_raise_their_own_alert_at_the_first_and_the_error_rate_at_its_share() -> None:
    watching = Watching()
    watching.events(38, START)
    watching.events(1, START, reason=Reason.NOT_FOUND)
    assert watching.told(START) == [("dead_letters", "raised")]
    watching.events(2, START, reason=Reason.POISON)
    (alert,) = watching.look(START)
    assert (alert.name, alert.detail) == ("error_rate_high", "3 of 41 events became dead letters")

    watching.events(1, after(minutes=70))
    watching.look(after(minutes=70))
    assert set(watching.told(after(minutes=70, seconds=CLEAR_SECONDS))) == {
        ("dead_letters", "cleared"),
        ("error_rate_high", "cleared"),
    }


def with_words(watching: Watching, at: datetime, now: datetime, rate: float, words: int) -> None:
    errors = round(rate * words)
    watching.windows.add(metric(at, wer=WordErrors(errors=errors, words=words)), now)


@pytest.mark.parametrize(
    ("rate", "words", "raised"),
    [
        (0.13, 5000, True),  # 30 % more errors, far from chance
        (0.115, 50_000, False),  # 15 % more
        (0.125, 1000, False),  # 25 more than 100 expected: three deviations are 30
        (0.5, 900, False),  # too few words
    ],
)
def test_quality_is_compared_with_the_week_before_and_chance_raises_nothing(
    rate: float, words: int, raised: bool
) -> None:
    watching = Watching()
    for day in range(2, 7):
        with_words(watching, after(days=-day), START, 0.10, 20_000)
    with_words(watching, START, START, rate, words)

    assert watching.told(START) == ([("quality_drop", "raised")] if raised else [])


def test_disagreement_counts_like_wer_and_says_so() -> None:
    watching = Watching()
    for at, errors in ((after(days=-3), 500), (START, 900)):
        counts = Disagreement(errors=errors, words=10_000, against="whisper")
        watching.windows.add(metric(at, disagreement=counts), START)

    (alert,) = watching.look(START)
    assert alert.name == "quality_drop"
    assert alert.value == pytest.approx(0.8)
    assert alert.detail == "disagreement is 9.0% on 10000 words; the week before had 5.0% on 10000"


def test_a_baseline_without_a_single_error_is_no_reason_to_raise_at_the_first_one() -> None:
    watching = Watching()
    with_words(watching, after(days=-3), START, 0.0, 10_000)
    with_words(watching, START, START, 0.0002, 5000)

    assert watching.told(START) == []


TODAY, MONTH = Key(EVERYBODY, "2026-11-24"), Key(EVERYBODY, "2026-11")
TENANTS = {"acme": 4_000_000, "beta": 4_500_000, "none": 10}


def test_a_budget_is_told_at_80_percent_and_when_no_call_fits_in_and_forgotten_with_the_next_day() -> None:
    watching = Watching()
    assert watching.look(START, budgets=[Standing(TODAY, 1_000_000, 799_999)]) == []
    (low,) = watching.look(START, budgets=[Standing(TODAY, 1_000_000, 800_000)])
    assert (low.name, low.threshold, low.value, low.window_seconds) == ("budget_low", 0.8, 0.8, 86_400.0)
    assert watching.look(after(hours=1), budgets=[Standing(TODAY, 1_000_000, 994_000)]) == []
    (gone,) = watching.look(after(hours=2), budgets=[Standing(TODAY, 1_000_000, 996_000)])
    assert (gone.state, gone.threshold, gone.value) == ("raised", 1.0, 1.0)
    assert gone.detail == "1.00 of 1.00 USD went to APIs in 2026-11-24 (UTC)"
    assert watching.look(after(hours=3), budgets=[Standing(TODAY, 1_000_000, 1_000_000)]) == []

    untouched = [Standing(Key(EVERYBODY, "2026-11-25"), 1_000_000, 0)]
    assert watching.look(after(hours=12), budgets=untouched) == []
    (cleared,) = watching.look(after(hours=12, minutes=5), budgets=untouched)
    assert (cleared.name, cleared.state) == ("budget_low", "cleared")


def test_a_month_that_runs_low_is_told_although_the_day_is_used_up_and_so_is_a_tenants_day() -> None:
    watching = Watching()
    found = [Standing(TODAY, 10, 10), Standing(MONTH, 1000, 1), Standing(Key("acme", "2026-11-24"), 5_000_000, 0)]
    assert [alert.name for alert in watching.look(START, budgets=found)] == ["budget_low"]
    found[1] = Standing(MONTH, 1000, 850)
    (month,) = watching.look(START, budgets=found)
    assert (month.name, month.value, month.window_seconds) == ("month_budget_low", 0.85, 30 * 86_400.0)
    found[2:] = [Standing(Key(tenant, "2026-11-24"), 5_000_000, spent) for tenant, spent in TENANTS.items()]
    (tenant,) = watching.look(START, budgets=found)
    assert (tenant.name, tenant.value) == ("tenant_budget_low", 0.9)
    assert tenant.detail == (
        "4.50 of 5.00 USD for beta went to APIs in 2026-11-24 (UTC); "
        "4.00 of 5.00 USD for acme went to APIs in 2026-11-24 (UTC)"
    )


def test_where_nothing_may_be_paid_no_budget_runs_low() -> None:
    assert Watching().look(START, budgets=[Standing(TODAY, 0, 0)]) == []


def test_events_served_elsewhere_tell_that_a_breaker_is_open() -> None:
    watching = Watching()
    watching.events(1, START, route=Route.BREAKER_OPEN)
    assert watching.told(START) == [("breaker_open", "raised")]
    watching.events(1, after(minutes=6))
    watching.look(after(minutes=6))
    assert watching.told(after(minutes=11)) == [("breaker_open", "cleared")]


def test_a_breaker_of_an_engine_that_nobody_stands_in_for_is_told_by_the_processs_outcomes() -> None:
    watching = Watching()
    watching.events(1, START, breakers_open=["refine"])
    watching.events(1, START, breakers_open=["primary", "refine"], reason=Reason.DEADLINE_EXCEEDED)
    (alert,) = [alert for alert in watching.look(START) if alert.name == "breaker_open"]
    assert (alert.state, alert.value) == ("raised", 2)
    assert "while primary, refine was left alone" in alert.detail


def test_while_no_event_is_settled_the_watching_process_tells_of_its_own_breakers() -> None:
    watching = Watching()

    def told(now: datetime, *left_alone: str) -> list[tuple[str, str, float]]:
        changes = watching.alerts.judge(watching.windows.seen(now), 0, now, left_alone)
        return [(alert.name, alert.state, alert.value) for alert in changes]

    assert told(START, "primary") == [("breaker_open", "raised", 1)]
    assert told(after(minutes=20), "primary") == []
    assert told(after(minutes=21)) == []
    assert told(after(minutes=26)) == [("breaker_open", "cleared", 0)]


def test_a_lag_that_is_not_known_changes_nothing() -> None:
    watching = Watching()
    assert watching.told(START, lag_growth=None) == []
    assert watching.told(START, lag_growth=101) == [("lag_growing", "raised")]
    assert watching.told(after(minutes=30), lag_growth=None) == []
    assert watching.told(after(minutes=40), lag_growth=0) == []
    assert watching.told(after(minutes=45), lag_growth=0) == [("lag_growing", "cleared")]


@given(st.lists(st.integers(0, 1000), min_size=31, max_size=31))
def test_only_a_lag_whose_lowest_is_above_its_highest_of_before_has_grown(lags: list[int]) -> None:
    trend = LagTrend()
    for number, lag in enumerate(lags):
        trend.add(lag, after(seconds=10 * number))

    # the sample of five minutes ago has left
    assert trend.growth(after(seconds=300)) == max(0, min(lags[16:]) - max(lags[1:16]))


def test_a_lag_that_was_watched_for_less_than_a_window_is_not_known_to_grow() -> None:
    trend = LagTrend()
    for number in range(20):
        trend.add(100 * number, after(seconds=10 * number))

    assert trend.growth(after(seconds=190)) is None


def test_what_was_raised_before_a_restart_is_not_raised_again_and_is_cleared() -> None:
    before = Watching()
    before.events(20, START, seconds=90.0)
    (alert,) = before.look(START)

    again = Watching(raised=[alert])
    again.events(20, START, seconds=90.0)
    assert again.told(after(seconds=30)) == []

    empty = Watching(raised=[alert])
    empty.look(after(hours=2))
    assert empty.told(after(hours=2, seconds=CLEAR_SECONDS)) == [("latency_high", "cleared")]


def test_what_the_topic_says_is_cleared_may_be_raised_again() -> None:
    before = Watching()
    before.events(1, START, reason=Reason.EMPTY)
    (alert,) = before.look(START)

    again = Watching(raised=[alert.model_copy(update={"state": "cleared"})])
    again.events(1, START, reason=Reason.EMPTY)
    assert again.told(START) == [("dead_letters", "raised")]


@given(
    st.lists(metrics(st.integers(-100_000, 0).map(lambda seconds: after(seconds=seconds)))),
    st.lists(st.integers(0, 1500), max_size=20),
)
def test_raised_and_cleared_alternate_and_a_restart_in_between_changes_nothing(
    found: list[TranscriptionMetric], steps: list[int]
) -> None:
    through, told = Watching(), list[Alert]()
    for one in found:
        through.windows.add(one, START)
    now = START
    for step in steps:
        now += timedelta(seconds=step)
        last: dict[str, Alert] = {alert.name: alert for alert in told}
        restarted = Alerts(LIMITS, last)
        assert restarted.raised == through.alerts.raised
        told += through.look(now)
    for name in {alert.name for alert in told}:
        states = [alert.state for alert in told if alert.name == name]
        assert states == [("raised", "cleared")[number % 2] for number in range(len(states))]


@given(st.lists(metrics(st.integers(-100_000, 0).map(lambda seconds: after(seconds=seconds)))))
def test_every_rule_has_a_verdict_on_anything_and_none_is_over_and_clear_at_once(
    found: list[TranscriptionMetric],
) -> None:
    windows = Windows()
    for one in found:
        windows.add(one, START)

    judged = verdicts(windows.seen(START), None, LIMITS)
    assert {name for name, _ in judged} == set(Alert.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]
    assert not any(verdict.over and verdict.clear for _, verdict in judged)
