"""All lanes together never spend more than a budget holds, and all of it can be spent."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from consumer.core.budget import EVERYBODY, UNLIMITED, Exhausted, Grant, Key, Limits, Standing, period_end, shown
from consumer.core.lane_budget import LaneBudget, Peers
from consumer.kafka.spending import limits_of
from consumer.settings import Settings
from schemas.models import BudgetAccount, BudgetEntry
from tests.support.budget_world import Owner, World

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TODAY, MONTH = Key(EVERYBODY, "2026-11-30"), Key(EVERYBODY, "2026-11")

_pick = st.integers(0, 1_000_000)
_amounts = st.integers(1, 30)


class AnythingHappens(RuleBasedStateMachine):
    """Owners ask, pay, commit, die, are fenced without knowing, and read each other late; days and months end."""

    @initialize(lanes=st.integers(1, 4), day=st.integers(20, 90), month=st.integers(20, 200), acme=st.integers(5, 90))
    def begin(self, lanes: int, day: int, month: int, acme: int) -> None:
        self.world = World(Limits(day, month, {"acme": acme}), lanes, NOON)
        self.stale: list[Owner] = []
        self.waiting = contextlib.ExitStack()

    def owner(self, pick: int) -> Owner:
        everybody = [*self.world.owners, *self.stale]
        return everybody[pick % len(everybody)]

    @rule(pick=_pick, acme=st.booleans(), microusd=_amounts)
    def ask(self, pick: int, acme: bool, microusd: int) -> None:
        self.world.ask(self.owner(pick), "acme" if acme else "else", microusd)

    @rule(pick=_pick, acme=st.booleans(), microusd=_amounts)
    def wait(self, pick: int, acme: bool, microusd: int) -> None:
        owner = self.owner(pick)
        tenant = "acme" if acme else "else"
        self.waiting.enter_context(owner.budget.waiting(tenant, microusd, self.world.clock(owner)))

    @rule()
    def nobody_waits(self) -> None:
        self.waiting.close()

    @rule(pick=_pick, part=st.integers(0, 100))
    def settle(self, pick: int, part: int) -> None:
        owner = self.owner(pick)
        if owner.out:
            number = pick % len(owner.out)
            self.world.settle(owner, number, owner.out[number][0].microusd * part // 100)

    @rule(pick=_pick, closing=st.booleans())
    def send(self, pick: int, closing: bool) -> None:
        self.world.send(self.owner(pick), closing=closing)

    @rule(pick=_pick)
    def land(self, pick: int) -> None:
        self.world.land(self.owner(pick))

    @rule(pick=_pick)
    def die_in_doubt(self, pick: int) -> None:
        owner = self.owner(pick)
        if not owner.is_fenced and owner.proposal is not None:
            self.stale.append(owner)
            self.world.land(owner, heard=False)

    @rule(pick=_pick)
    def take_over(self, pick: int) -> None:
        self.stale.append(self.world.take_over(pick % self.world.lanes))

    @rule(pick=_pick, lane=_pick, entries=st.integers(1, 5))
    def read(self, pick: int, lane: int, entries: int) -> None:
        self.world.learn(self.owner(pick), lane % self.world.lanes, entries)

    @rule(pick=_pick, microusd=_amounts, calls=st.integers(1, 6), acme=st.booleans())
    def spend(self, pick: int, microusd: int, calls: int, acme: bool) -> None:
        """As it goes when nothing goes wrong; a fenced owner tries, too."""
        owner = self.owner(pick)
        tenant = "acme" if acme else "else"
        for _ in range(calls):
            with owner.budget.waiting(tenant, microusd, self.world.clock(owner)):
                self.world.settle_down()
                self.world.ask(owner, tenant, microusd)
            self.world.send(owner)
            self.world.land(owner)

    @rule(pick=_pick, microusd=_amounts)
    def spend_while_an_entry_is_under_way(self, pick: int, microusd: int) -> None:
        owner = self.world.owners[pick % self.world.lanes]
        with owner.budget.waiting("else", microusd, self.world.clock(owner)):
            self.world.settle_down()
        self.world.send(owner)
        self.world.ask(owner, "else", microusd)
        self.world.land(owner)

    @rule()
    def come_to_rest(self) -> None:
        self.world.settle_down()

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)

    @rule(pick=_pick, hours=st.integers(-40, 40))
    def a_clock_is_wrong(self, pick: int, hours: int) -> None:
        self.owner(pick).clock_ahead = timedelta(hours=hours)

    @invariant()
    def nothing_is_overspent(self) -> None:
        if hasattr(self, "world"):
            over = {key: paid for key, paid in self.world.paid.items() if paid > (self.world.limits.limit(key) or 0)}
            assert not over, over

    @invariant()
    def what_is_reserved_in_all_lanes_fits_the_budget(self) -> None:
        if hasattr(self, "world"):
            reserved = self.world.reserved()
            over = {key: amount for key, amount in reserved.items() if amount > (self.world.limits.limit(key) or 0)}
            assert not over, over


AnythingHappens.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestWhateverHappens = AnythingHappens.TestCase


def _spend(world: World, owner: Owner, microusd: int, tenant: str = "default") -> Grant | Exhausted | None:
    """What an owner gets that waits until the lanes have come to rest; the call costs all that was granted."""
    with owner.budget.waiting(tenant, microusd, world.clock(owner)):
        world.settle_down()
        answer = world.ask(owner, tenant, microusd)
    if isinstance(answer, Grant):
        answer.settle(microusd)
    world.send(owner)
    world.land(owner)
    return answer


def test_one_lane_can_spend_all_of_the_budget_though_each_begins_with_a_part() -> None:
    world = World(Limits(day=1000), 8, NOON)
    answers = [_spend(world, world.owners[3], 30) for _ in range(40)]
    assert world.paid[TODAY] == 990
    assert isinstance(answers[-1], Exhausted)
    assert answers[-1].until == datetime(2026, 12, 1, tzinfo=UTC)


def test_all_lanes_at_once_spend_all_of_it_to_the_last_call() -> None:
    world = World(Limits(day=1000, month=5000), 4, NOON)
    for number in range(200):
        _spend(world, world.owners[number % 4], 7)
    assert 1000 - 7 < world.paid[TODAY] <= 1000


def test_of_two_lanes_that_each_want_more_than_half_one_gets_it() -> None:
    world = World(Limits(day=100), 2, NOON)
    first, second = world.owners
    with first.budget.waiting("default", 80, NOON), second.budget.waiting("default", 80, NOON):
        world.settle_down()
        assert isinstance(world.ask(first, "default", 80), Grant)
    assert world.reserved()[TODAY] <= 100
    assert world.ask(second, "default", 80) is None, "it cannot know yet that the first has been granted it"
    world.settle(first, 0, 80)
    world.send(first)
    world.land(first)
    world.settle_down()
    assert isinstance(world.ask(second, "default", 80), Exhausted)
    assert isinstance(_spend(world, second, 20), Grant)


def test_nothing_is_granted_before_its_reservation_is_committed() -> None:
    world = World(Limits(day=100), 1, NOON)
    (owner,) = world.owners
    assert world.ask(owner, "default", 10) is None
    with owner.budget.waiting("default", 10, NOON):
        assert owner.budget.is_due()
        world.send(owner)
        assert world.ask(owner, "default", 10) is None
        world.land(owner)
        assert isinstance(world.ask(owner, "default", 10), Grant)


def test_what_was_reserved_when_an_owner_died_counts_as_spent_and_what_was_settled_no_more_than_once() -> None:
    world = World(Limits(day=100), 1, NOON)
    _spend(world, world.owners[0], 10)
    with world.owners[0].budget.waiting("default", 30, NOON):
        world.settle_down()
    reserved = world.log[0][-1].accounts[0].reserved_microusd
    assert reserved == 40
    world.take_over(0)
    assert isinstance(_spend(world, world.owners[0], 61), Exhausted)
    assert isinstance(_spend(world, world.owners[0], 60), Grant)


def test_an_owner_that_closes_in_order_loses_nothing() -> None:
    world = World(Limits(day=100), 1, NOON)
    for _ in range(4):
        _spend(world, world.owners[0], 10)
    world.send(world.owners[0], closing=True)
    world.land(world.owners[0])
    world.take_over(0)
    assert isinstance(_spend(world, world.owners[0], 60), Grant)


def test_a_tenants_budget_leaves_the_others_alone_and_the_months_outlasts_the_days() -> None:
    world = World(Limits(day=100, month=150, tenant_day={"acme": 20}), 2, NOON - timedelta(days=1))
    assert isinstance(_spend(world, world.owners[0], 21, "acme"), Exhausted)
    assert isinstance(_spend(world, world.owners[1], 20, "acme"), Grant)
    assert isinstance(_spend(world, world.owners[0], 1, "acme"), Exhausted)
    assert isinstance(_spend(world, world.owners[0], 80, "beta"), Grant)
    over = _spend(world, world.owners[0], 1, "beta")
    assert isinstance(over, Exhausted)
    assert over.until == NOON.replace(hour=0)
    world.now = NOON
    assert isinstance(_spend(world, world.owners[0], 51, "acme"), Exhausted), "the month has 50 left"
    assert isinstance(_spend(world, world.owners[1], 20, "acme"), Grant)
    assert isinstance(_spend(world, world.owners[1], 30, "beta"), Grant)
    over = _spend(world, world.owners[0], 1, "beta")
    assert isinstance(over, Exhausted)
    assert over.until == datetime(2026, 12, 1, tzinfo=UTC)
    assert over.wait_seconds == 12 * 3600
    assert world.paid[MONTH] == 150


def test_a_call_that_cost_less_than_granted_leaves_the_rest_and_one_that_cost_more_counts_in_full() -> None:
    world = World(Limits(day=100), 1, NOON)
    (owner,) = world.owners
    for cost in (10, 90):
        with owner.budget.waiting("default", 40, NOON):
            world.settle_down()
        grant = world.ask(owner, "default", 40)
        assert isinstance(grant, Grant)
        grant.settle(cost)
        grant.settle(0)
        world.send(owner)
        world.land(owner)
    assert world.log[0][-1].accounts[0].spent_microusd == 100
    assert isinstance(world.ask(owner, "default", 1), Exhausted)


def test_a_period_that_is_long_over_stays_closed_and_a_wrong_clock_spoils_no_later_day() -> None:
    world = World(Limits(day=100), 1, NOON)
    (owner,) = world.owners
    for days in (0, 30_000, 1, 2):
        owner.clock_ahead = timedelta(days=days)
        assert isinstance(_spend(world, owner, 100), Grant)
    owner.clock_ahead = timedelta(0)
    assert isinstance(_spend(world, owner, 1), Exhausted)


def test_without_a_limit_everything_is_granted_and_nothing_is_written() -> None:
    assert not Limits()
    assert UNLIMITED.exhausted(10**12) is None
    budget = LaneBudget(0, Peers(Limits(), 1))
    assert isinstance(budget.ask("default", 10**12, NOON), Grant)
    assert budget.propose(NOON) is None


def test_what_is_free_is_granted_from_an_empty_budget() -> None:
    budget = LaneBudget(0, Peers(Limits(day=0), 1))
    assert isinstance(budget.ask("default", 0, NOON), Grant)
    assert isinstance(budget.ask("default", 1, NOON), Exhausted)


def test_a_budget_stands_as_all_lanes_have_committed_it_whoever_looks() -> None:
    tenants = {f"t{number}": 1000 for number in range(3)}
    onlooker = Peers(Limits(day=900, month=5000, tenant_day=tenants), 3)
    assert [standing.spent for standing in onlooker.standings(NOON)] == [0] * 5
    for lane, spent in enumerate((100, 50, 0)):
        keys = [TODAY, MONTH, Key("t1", TODAY.period)]
        accounts = [
            BudgetAccount(scope=key.scope, period=key.period, spent_microusd=spent, reserved_microusd=2 * spent)
            for key in keys
        ]
        onlooker.learn(BudgetEntry(partition=lane, accounts=accounts, at=NOON))
    found = onlooker.standings(NOON)
    assert found[:2] == [Standing(TODAY, 900, 150), Standing(MONTH, 5000, 150)]
    assert [(one.left, one.used_share) for one in found[2:]] == [(1000, 0.0), (850, 0.15), (1000, 0.0)]
    assert [one.key.scope for one in shown(found, tenants_at_most=1)] == [EVERYBODY, EVERYBODY, "t1"]
    tomorrow = onlooker.standings(NOON + timedelta(days=1))
    assert {one.spent for one in tomorrow} == {0}, "it is another month, too"


def test_periods_end_at_midnight_in_utc_whatever_zone_the_clock_shows() -> None:
    ends = [period_end(period) for period in ("2026-12-31", "2026-12", "2028-02-28", "2028-02")]
    assert ends == [datetime(*day, tzinfo=UTC) for day in ((2027, 1, 1), (2027, 1, 1), (2028, 2, 29), (2028, 3, 1))]
    late_in_new_york = datetime.fromisoformat("2026-11-30T22:00:00-05:00")
    assert [key.period for key in Limits(day=1, month=1).of("x", late_in_new_york)] == ["2026-12-01", "2026-12"]


def test_amounts_in_the_settings_become_whole_micro_dollars_never_more_than_was_said() -> None:
    chosen = Settings(
        budget_usd_per_day=0.1, budget_usd_per_month=12.3456789, tenant_budget_usd_per_day=["acme=5", "a=b=0.50"]
    )
    assert limits_of(chosen) == Limits(100_000, 12_345_678, {"acme": 5_000_000, "a=b": 500_000})
    assert not limits_of(Settings())
    assert limits_of(Settings(budget_usd_per_day=0)), "nothing may be paid"


@pytest.mark.parametrize("entry", ["acme", "acme=", "=5", "acme=-5", "acme=5 USD"])
def test_a_tenants_budget_that_is_no_amount_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ValidationError, match="is not TENANT=USD"):
        Settings(tenant_budget_usd_per_day=[entry])
