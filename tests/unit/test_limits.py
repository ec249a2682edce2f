"""The window limit and the share of a group."""

import math

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.limits import Share, WindowLimit, counted_seconds


def test_what_fits_goes_at_once_and_the_rest_waits_for_the_window() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(60.0, 0.0) == 0.0
    limit.sent(60.0, 1.0)
    assert limit.take(60.0, 2.0) == 59.0
    assert limit.take(40.0, 2.0) == 0.0
    limit.sent(40.0, 2.0)
    assert limit.take(60.0, 61.0) == 0.0


def test_while_everything_is_in_flight_only_an_answer_makes_room() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(100.0, 0.0) == 0.0
    assert limit.take(1.0, 1000.0) == math.inf
    limit.sent(100.0, 1000.0)
    assert limit.take(1.0, 1000.0) == 60.0


def test_an_amount_above_the_limit_goes_alone() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(10.0, 0.0) == 0.0
    limit.sent(10.0, 0.0)
    assert limit.take(500.0, 1.0) == 59.0
    assert limit.take(500.0, 60.0) == 0.0


def test_a_wait_that_rounding_makes_nothing_is_not_taken_for_a_yes() -> None:
    limit, period = WindowLimit(1.0, 0.1), 0.1
    sent_at = 0.7
    assert limit.take(1.0, sent_at) == 0.0
    limit.sent(1.0, sent_at)
    due = sent_at + period
    assert due - sent_at < period, "numbers for which the window seems full although nothing is left to wait for"
    assert limit.take(1.0, due) > 0.0
    assert limit.take(1.0, due + 1e-6) == 0.0


def test_what_was_never_sent_does_not_count() -> None:
    limit = WindowLimit(100.0, 60.0)
    assert limit.take(100.0, 0.0) == 0.0
    limit.refund(100.0)
    assert limit.take(100.0, 0.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.1, 90), st.floats(0, 20), st.floats(0, 1)), max_size=40))
def test_no_window_of_the_receiver_ever_sees_more_than_the_limit(steps: list[tuple[float, float, float]]) -> None:
    period = counted_seconds(60.0)
    limit, now = WindowLimit(100.0, period), 0.0
    seen: list[tuple[float, float]] = []
    for amount, preparing, jitter in steps:
        while (wait := limit.take(amount, now)) > 0:
            now += wait + 1e-6
        now += preparing
        limit.sent(amount, now)
        # it arrives a moment later, and more so or less than the one before it
        seen.append((now + jitter * (period - 60.0), amount))
    for start, _ in seen:
        assert sum(amount for at, amount in seen if start <= at < start + 60.0) <= 100.0 + 1e-6


def test_the_allowance_for_the_way_gives_up_a_fortieth_of_a_minute_at_most() -> None:
    assert 60.0 / counted_seconds(60.0) > 0.975


def test_a_smaller_share_counts_at_once_and_a_larger_one_after_a_period() -> None:
    share = Share(60.0)
    share.set(1.0, 0.0)
    share.set(0.25, 100.0)
    assert share.value(100.0) == 0.25
    share.set(0.75, 110.0)
    assert share.value(169.0) == 0.25
    assert share.value(170.0) == 0.75


def test_a_process_that_has_just_started_waits_out_whoever_was_there_before() -> None:
    share = Share(60.0)
    assert share.value(0.0) == 1.0, "with nobody to share with, all is its own"
    share.set(0.5, 10.0)
    assert share.value(69.0) == 0.0
    assert share.value(70.0) == 0.5


def test_what_nobody_ever_had_counts_at_once_and_never_more_than_is_owned() -> None:
    share = Share(60.0)
    share.set(0.5, 10.0)
    share.add_new(0.25, 11.0)
    assert share.value(11.0) == 0.25
    share.add_new(0.5, 12.0)
    assert share.value(12.0) == 0.5


def test_a_share_that_grew_and_shrank_again_never_counts_as_grown() -> None:
    share = Share(60.0)
    share.set(0.5, 0.0)
    assert share.value(60.0) == 0.5
    share.set(1.0, 60.0)
    share.set(0.25, 90.0)
    assert share.value(121.0) == 0.25


def test_a_share_says_when_it_grows() -> None:
    share = Share(60.0)
    assert share.grows_in(0.0) == math.inf
    share.set(0.5, 0.0)
    assert (share.value(0.0), share.grows_in(0.0), share.grows_in(45.0)) == (0.0, 60.0, 15.0)
    assert share.grows_in(60.0) == math.inf
    share.set(0.25, 61.0)
    assert share.grows_in(61.0) == math.inf, "it shrinks at once"
