import asyncio
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.worst import WorstOfMinute
from consumer.telemetry.loop_monitor import TICK_SECONDS, LoopMonitor, monitored_loop


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 10)), max_size=60))
def test_the_worst_of_a_minute_is_what_a_list_of_all_would_give(steps: list[tuple[float, float]]) -> None:
    minute, seen, now = WorstOfMinute(), list[tuple[float, float]](), 0.0
    for wait, value in steps:
        now += wait
        minute.add(value, now)
        seen.append((now, value))
        assert minute.worst(now) == max(value for at, value in seen if int(now) - int(at) < 60)
    assert minute.worst(now + 61) == 0.0


class Clocks:
    """Two hands that are set by hand."""

    now = 100.0
    computed = 5.0


def monitor(clocks: Clocks) -> LoopMonitor:
    return LoopMonitor(lambda: clocks.now, lambda: clocks.computed)


def test_a_block_is_how_much_too_late_the_timer_comes(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    watching = monitor(clocks)
    clocks.now += TICK_SECONDS
    watching.tick()
    assert watching.longest_seconds == 0.0
    clocks.now += TICK_SECONDS + 0.3
    clocks.computed += 0.1
    watching.tick()
    assert watching.longest_of_minute_seconds == watching.longest_seconds == pytest.approx(0.3)
    assert watching.longest_computing_seconds == pytest.approx(0.1)
    assert "loop_blocked seconds=0.300 computing_seconds=0.100" in caplog.text
    clocks.now += 61
    watching.tick()
    clocks.now += 61
    assert watching.longest_of_minute_seconds == 0.0


def test_a_loop_that_is_blocked_all_the_time_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    watching = monitor(clocks)
    for _ in range(300):
        clocks.now += 0.1
        watching.tick()
    assert len(caplog.records) == 3


async def test_a_real_block_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), monitored_loop() as watching:
        await asyncio.sleep(0)  # its timer runs from here
        time.sleep(0.2)  # noqa: ASYNC251 (what it is about)
        await asyncio.sleep(TICK_SECONDS)  # behind that timer
    assert watching.longest_seconds >= 0.2 - TICK_SECONDS
    assert "loop_blocked" in caplog.text
