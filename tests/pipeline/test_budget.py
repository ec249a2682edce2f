"""Two service processes on one budget, against an API that keeps its own count."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from schemas.codes import Route
from tests.support.kafka import Broker, Written
from tests.support.scenario import (
    Outcomes,
    as_instance,
    event,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until_settled,
)
from tests.support.scripted_api import Call, Reply, ScriptedApi, failed
from tests.support.service import serving

# a process whose share of the API grew waits a minute before it uses it: that is promised, and takes that long
pytestmark = [pytest.mark.kafka, pytest.mark.patient]

EVENTS = 48
CALL_USD = Decimal("0.0045") / 60
"""One second of gpt-transcribe."""
BUDGET_CALLS = 24


@dataclass
class Run:
    """What came out, and what the API counted."""

    found: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))
    calls: list[Call] = field(default_factory=list)
    refused: int = 0

    @property
    def billed_usd(self) -> Decimal:
        """The API bills what it answers."""
        return CALL_USD * (len(self.calls) - self.refused)


async def _run(kafka: Broker, folder: Path) -> Run:
    clips = [make_clip(folder, number, seconds=1.0) for number in range(EVENTS)]
    settings = settings_for(
        kafka.bootstrap_servers,
        folder,
        fallback="openai",
        critical_route="api",
        # a month: the test may run at midnight
        budget_usd_per_month=float(BUDGET_CALLS * CALL_USD),
    )
    await create(settings)
    run = Run()

    def refuse_some(call: Call) -> Reply | None:
        if len(api.calls) % 7:
            return None
        run.refused += 1
        return failed(503, headers={"retry-after-ms": "20"})

    events = [Written(event(f"e{n}", clip.uri, critical=True)) for n, clip in enumerate(clips)]
    async with ScriptedApi(refuse_some) as api:
        environment = {"OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": "x"}
        first = serving(as_instance(settings, "one"), **environment)
        second = serving(as_instance(settings, "two"), **environment)
        async with first as one, second as two:
            await asyncio.gather(one.until_log("lane_open", 2), two.until_log("lane_open", 2))
            await publish(settings, *events[:12])
            await until_settled(settings, 12, one, two)
            opened = two.said("lane_open")
            await one.kill()
            await two.until_log("lane_open", opened + 2)
            await publish(settings, *events[12:])
            await until_settled(settings, EVENTS, two)
            assert await two.stop() == 0, "\n".join(two.lines)
        run.calls = api.calls
    run.found = await asyncio.to_thread(outcomes, settings)
    return run


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Critical events for the API, twice as many as it may be paid for; one of two processes is killed on the way."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("budget")))


def test_the_api_is_never_paid_more_than_the_budget_and_most_of_it_is_used(run: Run) -> None:
    assert BUDGET_CALLS * CALL_USD * Decimal("0.75") <= run.billed_usd <= BUDGET_CALLS * CALL_USD


def test_what_the_budget_does_not_cover_is_heard_by_the_own_engine(run: Run) -> None:
    routes = [run.found.transcript(f"e{number}").json["route"] for number in range(EVENTS)]
    assert routes.count(Route.POLICY) + routes.count(Route.BUDGET_EXHAUSTED) == EVENTS
    assert Decimal(routes.count(Route.POLICY)) * CALL_USD == run.billed_usd
    assert run.found.dead_letters == []


def test_the_ledger_says_what_the_api_counted(run: Run) -> None:
    metrics = [run.found.metric(f"e{number}") for number in range(EVENTS)]
    lines = [line for metric in metrics for line in metric["attempts"] if line["engine"] == "openai"]
    assert sum(Decimal(str(line["cost_usd"])) for line in lines) == run.billed_usd
    assert sum(Decimal(str(metric["cost_usd"])) for metric in metrics) == run.billed_usd
    assert {line["price_version"] for line in lines} == {"openai-2026-11"}
    assert sum(line["outcome"] != "ok" for line in lines) == run.refused > 0
