"""Windows over metric events hold what a recount finds, in whatever order the events come."""

import math
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.sketch import RELATIVE_ERROR, SMALLEST, Sketch
from consumer.core.windows import AHEAD_SECONDS, Tally, Window
from schemas.codes import Outcome, Route
from schemas.models import TranscriptionMetric
from tests.support.metrics import START, metric, metrics

moments = st.integers(-20_000, 600).map(lambda seconds: START + timedelta(seconds=seconds))


def counted(found: list[TranscriptionMetric]) -> Tally:
    tally = Tally()
    for one in found:
        tally.add(one)
    return tally


def same(tally: Tally, found: list[TranscriptionMetric]) -> None:
    """The tally says what a plain recount of those events says."""
    assert tally.events == len(found)
    assert tally.dead_letters == sum(one.outcome is Outcome.DEAD_LETTERED for one in found)
    assert tally.cached == sum(one.cached for one in found)
    assert tally.breaker_open == sum(one.route is Route.BREAKER_OPEN for one in found)
    assert tally.audio_seconds == pytest.approx(math.fsum(one.audio_seconds or 0.0 for one in found))
    assert tally.cost_usd == sum((Decimal(str(one.cost_usd)) for one in found), Decimal(0))
    ledger = [line for one in found for line in one.attempts if line.engine == "openai"]
    assert tally.paid_usd == sum((Decimal(str(line.cost_usd)) for line in ledger), Decimal(0))
    for sums, counts in (
        (tally.wer, [one.wer for one in found if one.wer is not None]),
        (tally.disagreement, [one.disagreement for one in found if one.disagreement is not None]),
    ):
        assert (sums.errors, sums.words) == (sum(c.errors for c in counts), sum(c.words for c in counts))
    latencies = sorted(one.latency_seconds.total for one in found)
    assert tally.latency.mean == (pytest.approx(math.fsum(latencies) / len(latencies)) if latencies else None)
    for share in (0.0, 0.5, 0.95, 0.99, 1.0):
        close(tally.latency.quantile(share), latencies, share)


def close(quantile: float | None, values: list[float], share: float) -> None:
    if not values:
        assert quantile is None
        return
    assert quantile == pytest.approx(
        values[max(1, math.ceil(share * len(values))) - 1], rel=RELATIVE_ERROR + 1e-9, abs=SMALLEST
    )


@given(st.lists(metrics(moments)), st.integers(0, 4000))
def test_a_window_holds_the_events_that_were_completed_in_it_in_whatever_order_they_came(
    found: list[TranscriptionMetric], later_seconds: int
) -> None:
    window = Window(3600.0, slices=60)
    now = START.timestamp()
    for one in found:
        window.add(one, one.completed_at.timestamp(), now)

    at = now + later_seconds
    begins = (at // 60 - 59) * 60
    same(
        window.tally(at),
        [one for one in found if begins <= one.completed_at.timestamp() <= now + AHEAD_SECONDS],
    )


@given(st.lists(metrics(moments)), st.lists(metrics(moments)))
def test_the_tally_of_two_stretches_is_theirs_merged(
    first: list[TranscriptionMetric], second: list[TranscriptionMetric]
) -> None:
    merged = counted(first)
    merged.merge(counted(second))

    same(merged, first + second)


@given(st.lists(st.floats(0.0, 1e7), min_size=1), st.floats(0.0, 1.0))
def test_a_quantile_is_within_one_percent_of_the_value_at_its_rank(values: list[float], share: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.add(value)

    close(sketch.quantile(share), sorted(values), share)


def test_memory_does_not_grow_with_the_traffic() -> None:
    window = Window(300.0, slices=5)
    for second in range(0, 100_000, 7):
        now = START.timestamp() + second
        window.add(metric(START + timedelta(seconds=second)), now, now)
        window.tally(now)
        assert len(window._tallies) <= 5


def test_an_event_from_a_far_future_is_refused_and_one_from_a_clock_ahead_is_not() -> None:
    window, now = Window(300.0), START.timestamp()
    window.add(metric(), now + 10, now)
    window.add(metric(), now + 1e9, now)

    assert window.tally(now).events == 1
    assert window.tally(now + 1e9).events == 0
