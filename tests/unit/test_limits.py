"""The window limit and the share of a group."""

import math

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.limits import Share, WindowLimit


def test_what_fits_goes_at_once_and_the_rest_waits_for_the_window() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(60.0, 0.0) == 0.0
    limit.done(60.0, 1.0)
    assert limit.take(60.0, 2.0) == 59.0
    assert limit.take(40.0, 2.0) == 0.0
    limit.done(40.0, 2.0)
    assert limit.take(60.0, 61.0) == 0.0


def test_while_everything_is_in_flight_only_an_answer_makes_room() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(100.0, 0.0) == 0.0
    assert limit.take(1.0, 1000.0) == math.inf
    limit.done(100.0, 1000.0)
    assert limit.take(1.0, 1000.0) == 60.0


def test_an_amount_above_the_limit_goes_alone() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(10.0, 0.0) == 0.0
    limit.done(10.0, 0.0)
    assert limit.take(500.0, 1.0) == 59.0
    assert limit.take(500.0, 60.0) == 0.0


def test_what_was_never_sent_does_not_count() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(100.0, 0.0) == 0.0
    limit.refund(100.0)
    assert limit.take(100.0, 0.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.1, 90), st.floats(0, 20), st.floats(0, 1)), max_size=40))
def test_no_window_of_the_receiver_ever_sees_more_than_the_limit(steps: list[tuple[float, float, float]]) -> None:
    limit, now = WindowLimit(100.0, 60.0), 0.0
    seen: list[tuple[float, float]] = []
    for amount, duration, when in steps:
        while (wait := limit.take(amount, now)) > 0:
            now += wait + 1e-6
        # the receiver sees it at some moment between sending and the answer
        seen.append((now + when * duration, amount))
        now += duration
        limit.done(amount, now)
    for start, _ in seen:
        assert sum(amount for at, amount in seen if start <= at < start + 60.0) <= 100.0 + 1e-6


def test_a_smaller_share_counts_at_once_and_a_larger_one_after_a_period() -> None:
    share = Share(60.0)
    share.set(0.25, 100.0)
    assert share.value(100.0) == 0.25
    share.set(0.75, 110.0)
    assert share.value(169.0) == 0.25
    assert share.value(170.0) == 0.75


def test_a_share_that_grew_and_shrank_again_never_counts_as_grown() -> None:
    share = Share(60.0, 0.5)
    share.set(1.0, 0.0)
    share.set(0.25, 30.0)
    assert share.value(61.0) == 0.25
