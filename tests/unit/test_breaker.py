"""The breaker through any order of answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.breaker import Breaker, BreakerState, BreakerStatus
from consumer.engines.breakers import OpenBreakers


def breaker() -> Breaker:
    return Breaker(failures=3, reset_seconds=10.0, probe_lease_seconds=60.0, failure_rate=0.5, slow_rate=0.5)


def state_of(subject: Breaker) -> BreakerState:
    return subject.status(0.0).state


def test_it_opens_after_enough_failures_and_not_before() -> None:
    subject = breaker()
    subject.record_failure(0.0, "a")
    subject.record_failure(0.0, "b")
    assert subject.allow(0.0)
    subject.record_failure(0.0, "c")
    assert subject.state is BreakerState.OPEN
    assert not subject.allow(0.0)
    assert "3 of the latest 3 answers were failures" in subject.reason
    assert subject.reason.endswith("c")


def test_successes_in_between_do_not_hide_that_half_of_the_answers_fail() -> None:
    subject = breaker()
    for _ in range(2):
        subject.record_failure(0.0)
        subject.record_success(0.0)
    assert state_of(subject) is BreakerState.CLOSED
    subject.record_failure(0.0)
    assert state_of(subject) is BreakerState.OPEN


def test_failures_that_are_fewer_than_its_rate_keep_it_closed() -> None:
    subject = breaker()
    for _ in range(100):
        subject.record_failure(0.0)
        subject.record_success(0.0)
        subject.record_success(0.0)
    assert subject.state is BreakerState.CLOSED
    assert subject.status(0.0).failure_rate == pytest.approx(1 / 3)


def test_it_opens_when_too_many_of_the_latest_answers_are_slow() -> None:
    subject = breaker()
    for slow in (True, False, False, True, False):
        subject.record_success(0.0, slow=slow)
    assert state_of(subject) is BreakerState.CLOSED
    subject.record_success(0.0, slow=True)
    assert state_of(subject) is BreakerState.OPEN
    assert "3 of the latest 6 answers were slow" in subject.reason


def test_a_probe_that_is_slow_leaves_it_open() -> None:
    subject = breaker()
    subject.trip("slow", 0.0)
    assert subject.allow(10.0)
    subject.record_success(11.0, slow=True)
    assert subject.state is BreakerState.OPEN


def test_its_status_says_what_it_does_and_for_how_long() -> None:
    subject = breaker()
    assert subject.status(0.0) == BreakerStatus(BreakerState.CLOSED, "", 0.0, 0.0, 0.0)
    subject.record_failure(0.0, "a", slow=True)
    subject.record_success(0.0)
    assert subject.status(0.0) == BreakerStatus(BreakerState.CLOSED, "", 0.5, 0.5, 0.0)
    subject.trip("out of credit", 0.0)
    assert subject.status(4.0) == BreakerStatus(BreakerState.OPEN, "out of credit", 0.0, 0.0, 6.0)


def test_a_trip_opens_it_at_once_and_for_as_long_as_told() -> None:
    subject = breaker()
    subject.trip("out of credit", 0.0, hold_seconds=300.0)
    assert not subject.allow(299.0)
    assert subject.wait_seconds(100.0) == 200.0
    assert subject.allow(300.0)


def test_a_shorter_trip_does_not_cut_a_longer_one_short() -> None:
    subject = breaker()
    subject.trip("patience", 0.0, hold_seconds=300.0)
    subject.trip("credit", 1.0)
    assert not subject.allow(250.0)


def test_only_one_probe_goes_at_a_time() -> None:
    subject = breaker()
    subject.trip("dead", 0.0)
    assert subject.would_allow(10.0)
    assert subject.allow(10.0)
    assert subject.state is BreakerState.HALF_OPEN
    assert not subject.would_allow(10.0)
    assert not subject.allow(11.0)


def test_a_probe_that_succeeds_closes_it_and_one_that_fails_opens_it_again() -> None:
    subject = breaker()
    subject.trip("dead", 0.0)
    assert subject.allow(10.0)
    subject.record_failure(11.0)
    assert subject.state is BreakerState.OPEN
    assert not subject.allow(20.0)
    assert subject.allow(21.0)
    subject.record_success(22.0)
    assert subject.allow(22.0)
    assert subject.allow(22.0), "closed: not only the probe"


def test_a_probe_that_never_reports_does_not_wedge_it() -> None:
    subject = breaker()
    subject.trip("dead", 0.0)
    assert subject.allow(10.0)
    assert not subject.allow(69.0)
    assert subject.allow(70.0), "the lease has ended: the next one probes"


def test_an_abandoned_probe_passes_its_turn_on_at_once() -> None:
    subject = breaker()
    subject.trip("dead", 0.0)
    assert subject.allow(10.0)
    subject.abandon(10.5)
    assert subject.allow(10.5)


def test_a_late_success_from_before_does_not_close_an_open_one() -> None:
    subject = breaker()
    subject.trip("dead", 0.0)
    subject.record_success(1.0)
    assert subject.state is BreakerState.OPEN
    assert subject.successes == 1


def test_only_the_probe_judges_it_whatever_else_comes_back_meanwhile() -> None:
    subject = breaker()
    subject.trip("out of credit", 1.0)
    assert subject.allow(11.0)
    subject.record_success(12.0, sent_at=0.5)
    subject.record_failure(12.0, "late", sent_at=0.5)
    subject.abandon(12.0, sent_at=0.5)
    assert subject.state is BreakerState.HALF_OPEN
    assert not subject.allow(12.0), "no second probe beside the first"
    subject.record_success(13.0, sent_at=11.0)
    assert state_of(subject) is BreakerState.CLOSED


def test_every_listener_hears_every_change_with_its_reason() -> None:
    subject = breaker()
    first: list[tuple[BreakerState, BreakerState, str]] = []
    second: list[tuple[BreakerState, BreakerState, str]] = []
    subject.listen(lambda *change: first.append(change))
    subject.listen(lambda *change: second.append(change))
    subject.trip("dead", 0.0)
    assert subject.allow(10.0)
    subject.record_success(10.0)
    closed, opened, half = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
    assert [change[:2] for change in first] == [(closed, opened), (opened, half), (half, closed)]
    assert first == second
    assert second[0][2] == "dead"


def test_who_is_left_alone_is_told_until_it_closes_and_once_more_to_who_comes_late() -> None:
    own, other = breaker(), breaker()
    watched = OpenBreakers({"primary": own, "refine": other})
    assert (watched.now(), watched.take()) == ([], [])
    own.trip("dead", 0.0)
    assert own.allow(10.0)
    assert (watched.now(), watched.take(), watched.take()) == (["primary"], ["primary"], ["primary"])
    other.trip("dead", 10.0)
    own.record_success(11.0)
    assert other.allow(20.0)
    other.record_success(20.0)
    assert (watched.now(), watched.take(), watched.take()) == ([], ["refine"], [])


@given(st.lists(st.tuples(st.sampled_from(["allow", "success", "failure", "trip", "abandon"]), st.floats(0, 30))))
def test_whatever_happens_a_request_is_allowed_again_within_the_lease(steps: list[tuple[str, float]]) -> None:
    subject = breaker()
    now = 0.0
    for step, pause in steps:
        now += pause
        match step:
            case "allow":
                assert subject.would_allow(now) == subject.allow(now)
            case "success":
                subject.record_success(now)
            case "failure":
                subject.record_failure(now)
            case "trip":
                subject.trip("dead", now)
            case _:
                subject.abandon(now)
        assert subject.wait_seconds(now) <= 60.0 + 1e-6
    assert subject.allow(now + subject.wait_seconds(now) + 1e-6)
