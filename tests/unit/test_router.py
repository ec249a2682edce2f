"""The routing policy, case by case and over all states."""

from itertools import product

import pytest

from consumer.core.model import Urgency, Wish
from consumer.core.router import Decision, Go, Refuse, Router, Side, SideState, Wait
from schemas.codes import Route

READY, DOWN, UNFIT, ABSENT = SideState.READY, SideState.DOWN, SideState.UNFIT, SideState.ABSENT
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
        assert DOWN in states.values()
        assert READY not in states.values()
    else:
        assert not {READY, DOWN} & set(states.values())
