"""How long an engine will need, from what it has in hand and how fast it was."""

import pytest

from consumer.core.load import Load


def test_nothing_is_said_before_anything_was_measured() -> None:
    load = Load()
    load.took(10.0, 0.0, critical=False)
    assert load.seconds_to_serve(1.0, critical=False) is None
    load.done(10.0, 1.0, critical=False, heard=False)
    assert load.seconds_to_serve(1.0, critical=False) is None, "a failure says nothing of the pace"


def test_the_wait_is_what_is_in_hand_over_the_measured_rate() -> None:
    load = Load()
    load.took(10.0, 0.0, critical=False)
    load.done(10.0, 2.0, critical=False, heard=True)
    assert load.rate == 5.0
    load.took(100.0, 5.0, critical=False)
    load.took(20.0, 5.0, critical=True)
    assert load.seconds_to_serve(5.0, critical=False) == 25.0
    assert load.seconds_to_serve(5.0, critical=True) == 5.0, "a critical one waits for critical ones alone"


def test_idle_hours_do_not_make_an_engine_look_slow() -> None:
    load, now = Load(), 0.0
    for _ in range(5):
        load.took(10.0, now, critical=False)
        load.done(10.0, now + 1.0, critical=False, heard=True)
        now += 3600.0
    assert load.rate == pytest.approx(10.0)
    assert load.is_idle


def test_work_side_by_side_counts_its_time_once() -> None:
    load = Load()
    for _ in range(4):
        load.took(10.0, 0.0, critical=False)
    for _ in range(4):
        load.done(10.0, 2.0, critical=False, heard=True)
    assert load.rate == pytest.approx(20.0)


def test_what_was_long_ago_counts_less_than_what_is_now() -> None:
    load, now = Load(), 0.0
    for seconds in [1.0] * 30 + [10.0] * 30:  # it has become ten times slower
        load.took(10.0, now, critical=False)
        now += seconds
        load.done(10.0, now, critical=False, heard=True)
    assert load.rate is not None
    assert 1.0 < load.rate < 1.05


def test_an_engine_that_hears_nothing_any_more_gets_later_with_all_that_it_is_given() -> None:
    load = Load()
    load.took(10.0, 0.0, critical=False)
    load.done(10.0, 1.0, critical=False, heard=True)
    for number in range(10):
        load.took(10.0, 1.0 + number, critical=False)
    assert load.seconds_to_serve(10.0, critical=False) == pytest.approx(11.0)
