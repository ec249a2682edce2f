"""Delays between tries, and the loop that sleeps them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.backoff import GiveUp, RetryPolicy
from consumer.errors import EventError, RecordingError, TransientError
from consumer.retrying import AttemptsExhaustedError, retrying
from schemas.codes import Reason

POLICY = RetryPolicy(attempts=4, first_seconds=1.0, max_seconds=5.0, longest_wait_seconds=120.0)


class Bench:
    """A clock that moves only while somebody sleeps, and a call that fails as told."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)
        self.now = 0.0
        self.slept: list[float] = []
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def run(self, deadline: float | None = None) -> str:
        return await retrying(
            self.call, POLICY, deadline=deadline, clock=lambda: self.now, sleep=self.sleep, uniform=lambda: 1.0
        )


def passing(retry_after_seconds: float | None = None) -> TransientError:
    return TransientError(Reason.FETCH_FAILED, "the host hiccuped", retry_after_seconds=retry_after_seconds)


@given(st.integers(1, 3), st.floats(0, 1))
def test_delays_grow_with_the_failures_and_stay_within_their_range(failures: int, uniform: float) -> None:
    delay = POLICY.next_delay(failures, uniform=uniform, now=0.0)
    assert isinstance(delay, float)
    assert 0 <= delay <= min(5.0, 2.0 ** (failures - 1))


def test_no_number_of_failures_overflows() -> None:
    assert RetryPolicy(attempts=10**9).ceiling(10**6) == 20.0


@given(st.floats(0.001, 120.0), st.floats(0, 1))
def test_the_other_sides_wish_is_a_lower_bound(asked: float, uniform: float) -> None:
    delay = POLICY.next_delay(1, uniform=uniform, now=0.0, retry_after_seconds=asked)
    assert isinstance(delay, float)
    assert asked <= delay <= asked * 1.1 + 1e-9


def test_a_wait_beyond_the_limit_is_not_slept() -> None:
    assert POLICY.next_delay(1, uniform=0.5, now=0.0, retry_after_seconds=121.0) is GiveUp.WAIT_TOO_LONG


def test_a_try_that_could_only_begin_after_the_deadline_is_not_waited_for() -> None:
    assert POLICY.next_delay(1, uniform=1.0, now=10.0, deadline=10.5) is GiveUp.DEADLINE


async def test_a_passing_failure_is_tried_again_until_it_works() -> None:
    bench = Bench(passing(), passing(7.0), "words")
    assert await bench.run() == "words"
    assert bench.calls == 3
    assert bench.slept[0] == 1.0
    assert bench.slept[1] >= 7.0


async def test_used_up_attempts_keep_the_reason_and_say_how_often() -> None:
    bench = Bench(*(passing() for _ in range(4)))
    with pytest.raises(AttemptsExhaustedError) as caught:
        await bench.run()
    assert not isinstance(caught.value, TransientError)
    assert caught.value.reason is Reason.FETCH_FAILED
    assert "tried 4 times" in caught.value.detail
    assert "hiccuped" in caught.value.detail


async def test_other_errors_are_not_tried_again() -> None:
    bench = Bench(RecordingError(Reason.CORRUPT_AUDIO, "noise"), "never")
    with pytest.raises(RecordingError):
        await bench.run()
    assert bench.calls == 1


async def test_a_deadline_ends_the_tries_with_its_own_reason() -> None:
    bench = Bench(*(passing() for _ in range(4)))
    with pytest.raises(EventError) as caught:
        await bench.run(deadline=2.5)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert "hiccuped" in caught.value.detail
    assert bench.calls == 2


async def test_nothing_is_tried_once_the_deadline_has_passed() -> None:
    bench = Bench("words")
    bench.now = 3.0
    with pytest.raises(EventError) as caught:
        await bench.run(deadline=2.5)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert bench.calls == 0
