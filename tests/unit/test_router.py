"""The routing policy, case by case and over all states."""

from itertools import product

import pytest
from pydantic import ValidationError

from consumer.core.model import Urgency, Wish
from consumer.core.router import Decision, Go, Refuse, Router, RouteRule, Side, SideState, Wait, route_rules
from consumer.settings import Settings
from schemas.codes import Route

READY, DOWN, HELD, UNFIT, ABSENT = SideState.READY, SideState.DOWN, SideState.HELD, SideState.UNFIT, SideState.ABSENT
UNPAID = SideState.UNPAID
LOCAL = Go(Side.PRIMARY, Route.LOCAL)
PLAIN, CRITICAL = Wish(), Wish(urgency=Urgency(critical=True))


@pytest.mark.parametrize(
    ("primary", "fallback", "expected"),
    [
        (READY, READY, LOCAL),
        (READY, ABSENT, LOCAL),
        (DOWN, READY, Go(Side.FALLBACK, Route.BREAKER_OPEN)),
        (DOWN, DOWN, Wait()),
        (DOWN, ABSENT, Wait()),
        (UNFIT, READY, Go(Side.FALLBACK, Route.POLICY)),
        (UNFIT, DOWN, Wait()),
        (UNFIT, ABSENT, Refuse()),
        (UNFIT, UNFIT, Refuse()),
        (READY, HELD, LOCAL),
        (DOWN, HELD, Wait()),
        (HELD, ABSENT, Wait()),
        (READY, UNPAID, LOCAL),
        (DOWN, UNPAID, Wait()),
    ],
)
def test_a_plain_event_goes_local_while_it_can(primary: SideState, fallback: SideState, expected: Decision) -> None:
    assert Router().choose(PLAIN, primary, fallback) == expected


def test_a_critical_event_goes_to_the_api_only_if_the_settings_say_so() -> None:
    assert Router("api").choose(CRITICAL, READY, READY) == Go(Side.FALLBACK, Route.POLICY)
    assert Router("api").choose(PLAIN, READY, READY) == LOCAL
    assert Router("local").choose(CRITICAL, READY, READY) == LOCAL


def test_a_critical_event_is_served_locally_while_the_api_is_down() -> None:
    assert Router("api").choose(CRITICAL, READY, DOWN) == LOCAL


@pytest.mark.parametrize(("primary", "fallback"), list(product(SideState, SideState)))
@pytest.mark.parametrize("critical", [True, False])
def test_work_only_goes_where_it_is_ready_and_is_refused_only_when_hopeless(
    primary: SideState, fallback: SideState, critical: bool
) -> None:
    decision = Router("api").choose(Wish(urgency=Urgency(critical=critical)), primary, fallback)
    states = {Side.PRIMARY: primary, Side.FALLBACK: fallback}
    if isinstance(decision, Go):
        assert states[decision.side] is READY
    elif isinstance(decision, Wait):
        assert {DOWN, HELD, UNPAID} & set(states.values())
        assert READY not in states.values()
    else:
        assert not {READY, DOWN, HELD, UNPAID} & set(states.values())


def test_an_event_that_would_be_late_locally_goes_to_the_api_if_that_can_serve_it() -> None:
    assert Router().choose(PLAIN, READY, READY, late=True) == Go(Side.FALLBACK, Route.DEADLINE)
    assert Router().choose(PLAIN, READY, HELD, late=True) == LOCAL
    assert Router(rules=route_rules(["tenant=default:local"])).choose(PLAIN, READY, READY, late=True) == LOCAL


def test_an_event_that_the_api_would_serve_if_it_were_paid_says_so() -> None:
    instead = Go(Side.PRIMARY, Route.BUDGET_EXHAUSTED)
    assert Router("api").choose(CRITICAL, READY, UNPAID) == instead
    assert Router().choose(PLAIN, READY, UNPAID, late=True) == instead
    assert Router("api").choose(CRITICAL, READY, HELD) == LOCAL


def test_a_deferred_event_says_that_it_came_off_peak() -> None:
    assert Router().choose(Wish(deferred=True), READY, READY) == Go(Side.PRIMARY, Route.OFF_PEAK)
    assert Router().choose(Wish(deferred=True), DOWN, READY) == Go(Side.FALLBACK, Route.BREAKER_OPEN)


@pytest.mark.parametrize(
    ("rule", "wish", "audio_seconds", "goes"),
    [
        ("tenant=acme:api", Wish(tenant="acme"), 1.0, Side.FALLBACK),
        ("tenant=acme:api", Wish(tenant="other"), 1.0, Side.PRIMARY),
        ("tenant=a:b:api", Wish(tenant="a:b"), 1.0, Side.FALLBACK),
        ("language=de:api", Wish(language="de"), 1.0, Side.FALLBACK),
        ("language=de:api", Wish(), 1.0, Side.PRIMARY),
        ("priority=critical:api", CRITICAL, 1.0, Side.FALLBACK),
        ("priority=deferred:api", Wish(deferred=True), 1.0, Side.FALLBACK),
        ("longer_than=3600:api", PLAIN, 3600.0, Side.PRIMARY),
        ("longer_than=3600:api", PLAIN, 3601.0, Side.FALLBACK),
        ("shorter_than=2.5:api", PLAIN, 2.0, Side.FALLBACK),
    ],
)
def test_a_rule_sends_the_events_that_it_names(rule: str, wish: Wish, audio_seconds: float, goes: Side) -> None:
    assert Settings(route_rules=[rule]).route_rules == [rule]
    decision = Router(rules=route_rules([rule])).choose(wish, READY, READY, audio_seconds=audio_seconds)
    assert isinstance(decision, Go)
    assert decision.side is goes


def test_the_first_rule_that_fits_counts_and_before_the_usual_way_of_critical_events() -> None:
    router = Router("api", rules=route_rules(["longer_than=600:local", "tenant=acme:api"]))
    assert router.choose(Wish(tenant="acme"), READY, READY, audio_seconds=601.0) == LOCAL
    assert router.choose(CRITICAL, READY, READY, audio_seconds=601.0) == LOCAL
    assert router.choose(CRITICAL, READY, READY, audio_seconds=1.0) == Go(Side.FALLBACK, Route.POLICY)


def test_a_rule_prefers_and_does_not_forbid() -> None:
    local = Router(rules=route_rules(["tenant=default:local"]))
    assert local.choose(PLAIN, DOWN, READY) == Go(Side.FALLBACK, Route.BREAKER_OPEN)
    assert Router(rules=route_rules(["tenant=default:api"])).choose(PLAIN, READY, DOWN) == LOCAL


@pytest.mark.parametrize("rule", ["tenant=acme", "tenant:api", "colour=red:api", "longer_than=soon:api", "=:local"])
def test_a_rule_that_cannot_be_read_is_refused_with_examples(rule: str) -> None:
    with pytest.raises(ValidationError, match="longer_than=3600:local"):
        Settings(route_rules=[rule])


def test_a_decision_looks_at_each_rule_once_at_most() -> None:
    looked = 0

    class Counted(RouteRule):
        def matches(self, wish: Wish, audio_seconds: float) -> bool:
            nonlocal looked
            looked += 1
            return RouteRule.matches(self, wish, audio_seconds)

    rules = tuple(Counted("tenant", str(number), "api") for number in range(50))
    Router(rules=rules).choose(PLAIN, READY, READY)
    assert looked == 50
