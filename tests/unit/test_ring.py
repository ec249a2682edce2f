"""Sums of the last minute, against a plain recount."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.ring import SLOTS, MinuteRing

MOMENTS = st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 100)), max_size=60)


@given(MOMENTS)
def test_sums_and_series_are_those_of_a_recount(steps: list[tuple[float, int]]) -> None:
    ring, told, now = MinuteRing(2), [], 1000.0
    for passed, value in steps:
        now += passed
        ring.add(now, value, 1)
        told.append((int(now), value))
    last = int(now)
    recent = [(second, value) for second, value in told if second > last - SLOTS]
    assert ring.sums(now) == [sum(value for _, value in recent), len(recent)]
    expected = [sum(value for at, value in recent if at == second) for second in range(last - SLOTS + 1, last)]
    assert ring.series(now, 0) == expected


def test_what_is_older_than_a_minute_is_forgotten_although_nothing_came_since() -> None:
    ring = MinuteRing(1)
    ring.add(10.0, 5.0)
    assert ring.sums(69.9) == [5.0]
    assert ring.sums(70.0) == [0.0]
    assert ring.series(70.0, 0) == [0.0] * (SLOTS - 1)


def test_nothing_is_nothing() -> None:
    assert MinuteRing(3).sums(5.0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("now", [0.0, 59.5, 1.0e9])
def test_the_second_under_way_is_in_the_sums_and_not_in_the_series(now: float) -> None:
    ring = MinuteRing(1)
    ring.add(now, 1.0)
    assert ring.sums(now) == [1.0]
    assert sum(ring.series(now, 0)) == 0.0
    assert ring.series(now + 1, 0)[-1] == 1.0
