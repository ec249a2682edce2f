"""The books: sums that are exact, and what other ways would have cost."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from consumer.core.cost import Costs
from consumer.core.prices import api_model
from schemas.codes import Outcome
from schemas.models import Attempt, BudgetAccount, LatencySeconds, TranscriptionMetric

NOON = datetime(2020, 11, 24, 12, tzinfo=UTC)


def attempt(cost_usd: float, *, engine: str = "openai", outcome: str = "ok", seconds: float = 60.0) -> Attempt:
    return Attempt(engine=engine, model="m", outcome=outcome, audio_seconds=seconds, cost_usd=cost_usd, seconds=1.0)


def metric(*attempts: Attempt, **fields: Any) -> TranscriptionMetric:
    values: dict[str, Any] = {
        "event_id": "e",
        "tenant": "acme",
        "outcome": Outcome.TRANSCRIBED,
        "audio_seconds": 60.0,
        "latency_seconds": LatencySeconds(total=1.0),
        "cost_usd": float(sum(Decimal(str(attempt.cost_usd)) for attempt in attempts)),
        "attempts": list(attempts),
        "completed_at": NOON,
        **fields,
    }
    return TranscriptionMetric(**values)


def books(*metrics: TranscriptionMetric) -> Costs:
    costs = Costs()
    for one in metrics:
        costs.add(one)
    return costs


def test_a_hundred_thousand_small_amounts_add_up_to_the_micro_dollar() -> None:
    costs = books(*[metric(attempt(0.0000225))] * 100_000)
    assert costs.total.usd == Decimal("2.25")
    assert costs.by_engine["openai", "m"].usd == Decimal("2.25")
    assert costs.unlisted_usd == 0


def test_every_event_is_in_its_day_and_its_tenants_line_and_every_try_in_its_engines() -> None:
    costs = books(
        metric(attempt(0.25, engine="ctc", outcome="engine_failed"), attempt(0.5)),
        metric(tenant="beta", completed_at=NOON + timedelta(hours=12), cached=True),
        metric(attempt(1.0), outcome=Outcome.DEAD_LETTERED, audio_seconds=None),
    )
    assert {day: (line.count, line.usd) for day, line in costs.by_day.items()} == {
        "2020-11-24": (2, Decimal("1.75")),
        "2020-11-25": (1, Decimal(0)),
    }
    assert {tenant: line.usd for tenant, line in costs.by_tenant.items()} == {"acme": Decimal("1.75"), "beta": 0}
    assert {engine: (line.count, line.usd) for (engine, _), line in costs.by_engine.items()} == {
        "ctc": (1, Decimal("0.25")),
        "openai": (2, Decimal("1.5")),
    }
    assert (costs.failed.count, costs.failed.usd) == (1, Decimal("0.25"))


def test_what_a_metric_cost_beyond_its_list_of_tries_is_not_lost() -> None:
    costs = books(metric(attempt(0.5), cost_usd=2.0))
    assert (costs.total.usd, costs.unlisted_usd) == (Decimal(2), Decimal("1.5"))


def test_what_if_figures_count_what_memory_saves_and_what_failures_cost() -> None:
    local = [metric(attempt(0.0001, engine="ctc")), metric(attempt(0.0001, engine="ctc", outcome="engine_failed"))]
    costs = books(*local, metric(attempt(0.0045)), metric(cached=True))
    assert costs.cache_share == Decimal("0.25")
    what_if = costs.what_if(api_model("gpt-transcribe"))
    assert what_if.this_policy_usd == Decimal("0.0047") / 4 * 1_000_000
    assert what_if.all_api_usd == Decimal(4500) * 3 / 4
    assert what_if.all_local_usd == Decimal("0.0002") * 1_000_000 * 3 / 4, "by what a heard minute cost it"
    assert what_if.all_api_no_memory_usd == 4500


def test_where_nothing_was_heard_nothing_is_made_up() -> None:
    assert books().cache_share is None
    assert set(books().what_if(api_model("gpt-transcribe")).as_dict().values()) == {None}
    assert books(metric(attempt(0.0045))).what_if(api_model("gpt-transcribe")).all_local_usd is None


def account(period: str, spent: int, scope: str = "*") -> BudgetAccount:
    return BudgetAccount(scope=scope, period=period, spent_microusd=spent, reserved_microusd=spent)


def test_what_budgets_count_as_spent_and_no_event_tells_of_is_shown_by_period() -> None:
    # each try counts in whole micro-dollars there: 2 + 2 + 3 for the correction, and nothing for the own engine
    told = [metric(attempt(0.0000015), attempt(0.000002)), metric(attempt(0.000003, engine="refine"))]
    costs = books(*told, metric(attempt(0.5, engine="ctc")))
    lanes = [account("2020-11-24", 5), account("2020-11-24", 6), account("2020-11-24", 999, "acme")]
    week = NOON - timedelta(days=7)
    assert costs.beyond_usd(lanes, week, NOON, NOON) == {"2020-11-24": Decimal("0.000004")}
    assert costs.beyond_usd(lanes[:1], week, NOON, NOON) == {}, "a budget that was set in the middle of a day"


def test_a_period_that_is_looked_at_in_part_tells_nothing_of_what_was_lost() -> None:
    costs, lanes = books(metric(attempt(0.000001))), [account("2020-11-24", 3), account("2020-11", 3)]
    later = NOON + timedelta(days=60)
    first, last = datetime(2020, 11, 1, tzinfo=UTC), datetime(2020, 12, 1, tzinfo=UTC)
    assert costs.beyond_usd(lanes, first, last, later).keys() == {"2020-11", "2020-11-24"}
    assert costs.beyond_usd(lanes, first + timedelta(hours=1), last, later).keys() == {"2020-11-24"}
    assert costs.beyond_usd(lanes, first, last - timedelta(hours=1), later).keys() == {"2020-11-24"}
    assert costs.beyond_usd(lanes, first, NOON, later) == {}
    assert costs.beyond_usd(lanes, first, NOON, NOON).keys() == {"2020-11", "2020-11-24"}
