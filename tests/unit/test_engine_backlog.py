"""How long an engine will need, from what it has in hand and how fast it was."""

import pytest

from consumer.core.engine_backlog import EngineBacklog


def test_nothing_is_said_before_anything_was_measured() -> None:
    backlog = EngineBacklog()
    backlog.took(10.0, 0.0, critical=False)
    assert backlog.seconds_to_serve(1.0, critical=False) is None
    backlog.done(10.0, 1.0, critical=False, heard=False)
    assert backlog.seconds_to_serve(1.0, critical=False) is None, "a failure says nothing of the pace"


def test_the_wait_is_what_is_in_hand_over_the_measured_rate() -> None:
    backlog = EngineBacklog()
    backlog.took(10.0, 0.0, critical=False)
    backlog.done(10.0, 2.0, critical=False, heard=True)
    assert backlog.rate == 5.0
    backlog.took(100.0, 5.0, critical=False)
    backlog.took(20.0, 5.0, critical=True)
    assert backlog.seconds_to_serve(5.0, critical=False) == 25.0
    assert backlog.seconds_to_serve(5.0, critical=True) == 5.0, "a critical one waits for critical ones alone"


def test_idle_hours_do_not_make_an_engine_look_slow() -> None:
    backlog, now = EngineBacklog(), 0.0
    for _ in range(5):
        backlog.took(10.0, now, critical=False)
        backlog.done(10.0, now + 1.0, critical=False, heard=True)
        now += 3600.0
    assert backlog.rate == pytest.approx(10.0)
    assert backlog.is_idle


def test_work_side_by_side_counts_its_time_once() -> None:
    backlog = EngineBacklog()
    for _ in range(4):
        backlog.took(10.0, 0.0, critical=False)
    for _ in range(4):
        backlog.done(10.0, 2.0, critical=False, heard=True)
    assert backlog.rate == pytest.approx(20.0)


def test_what_was_long_ago_counts_less_than_what_is_now() -> None:
    backlog, now = EngineBacklog(), 0.0
    for seconds in [1.0] * 30 + [10.0] * 30:  # it has become ten times slower
        backlog.took(10.0, now, critical=False)
        now += seconds
        backlog.done(10.0, now, critical=False, heard=True)
    assert backlog.rate is not None
    assert 1.0 < backlog.rate < 1.05


def test_an_engine_that_hears_nothing_any_more_gets_later_with_all_that_it_is_given() -> None:
    backlog = EngineBacklog()
    backlog.took(10.0, 0.0, critical=False)
    backlog.done(10.0, 1.0, critical=False, heard=True)
    for number in range(10):
        backlog.took(10.0, 1.0 + number, critical=False)
    assert backlog.seconds_to_serve(10.0, critical=False) == pytest.approx(11.0)
