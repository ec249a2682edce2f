"""The API is called only with leave from the budgets, and what a call did cost is said back to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumer.core.budget import Exhausted, Grant, Purse
from consumer.core.model import Wish
from consumer.engines.hybrid import HybridEngine
from consumer.engines.openai_api import OpenAIEngine
from consumer.engines.simulated import SimulatedEngine
from consumer.errors import HoldError
from schemas.codes import Hold, Reason, Route
from tests.engines.api_bench import KEY, no_sleep, noise, running, settings, spooled
from tests.support.scripted_api import ScriptedApi, failed, hang, html, ok, too_fast

MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)
SECOND_MICROUSD = 75
"""Of gpt-transcribe."""


class Money:
    """A purse that grants what it holds, and notes what became of it."""

    def __init__(self, holds: int, wait_seconds: float = 3600.0) -> None:
        self.holds = holds
        self.exhaustion = Exhausted(MIDNIGHT, wait_seconds)
        self.granted: list[int] = []
        self.settled: list[int] = []

    def exhausted(self, microusd: int) -> Exhausted | None:
        return None if microusd <= self.holds else self.exhaustion

    async def reserve(self, microusd: int) -> Grant | Exhausted:
        if microusd > self.holds:
            return self.exhaustion
        self.holds -= microusd
        self.granted.append(microusd)
        return Grant(microusd, self.settled.append)


class Late(Money):
    """Seems to hold enough until the money is asked for."""

    def exhausted(self, microusd: int) -> Exhausted | None:
        return None


@asynccontextmanager
async def alone(api: ScriptedApi, **changes: Any) -> AsyncIterator[HybridEngine]:
    """The API as the only engine, as the service has it."""
    primary = OpenAIEngine(settings(**changes), base_url=api.base_url, api_key=KEY, sleep=no_sleep)
    engine = HybridEngine(primary, None, settings(engine="openai", **changes))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def behind(api: ScriptedApi) -> AsyncIterator[HybridEngine]:
    """A local engine, and the API for what is critical."""
    chosen = settings(critical_route="api", simulated_realtime_factor=1000.0)
    fallback = OpenAIEngine(chosen, base_url=api.base_url, api_key=KEY, sleep=no_sleep)
    engine = HybridEngine(SimulatedEngine(chosen), fallback, chosen)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def critical(purse: Purse) -> Wish:
    wish = Wish(purse=purse)
    wish.urgency.raise_to_critical()
    return wish


async def test_each_try_asks_for_the_most_it_can_cost_and_settles_what_it_did(tmp_path: Path) -> None:
    money = Money(1_000_000)
    script = [too_fast(retry_after_ms="1"), failed(500), html(), ok(usage={"type": "duration", "seconds": 2})]
    async with ScriptedApi(script) as api, running(api) as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(2.4)), Wish(purse=money))
    assert money.granted == [3 * SECOND_MICROUSD] * 4, "seconds may be billed as started ones"
    # a malformed answer may have been billed, by started seconds; the good one says itself what it is billed
    assert money.settled == [0, 0, 3 * SECOND_MICROUSD, 2 * SECOND_MICROUSD]
    assert [attempt.cost_usd for attempt in heard.attempts] == [0.0, 0.0, 0.00018, 0.00015]
    assert heard.cost_usd == 0.00033


async def test_a_call_that_is_cut_off_counts_as_paid(tmp_path: Path) -> None:
    money = Money(1_000_000)
    async with ScriptedApi([hang()]) as api, running(api) as engine:
        call = asyncio.create_task(engine.transcribe(spooled(tmp_path, noise(2.0)), Wish(purse=money)))
        await api.until_calls(1)
        call.cancel()
        await asyncio.wait([call])
    assert money.settled == [2 * SECOND_MICROUSD]


@pytest.mark.parametrize("kind", [Money, Late])
async def test_without_money_the_api_is_not_called_and_the_local_engine_serves(
    tmp_path: Path, kind: type[Money]
) -> None:
    money = kind(2 * SECOND_MICROUSD)
    async with ScriptedApi() as api, behind(api) as engine:
        rich = await engine.transcribe(spooled(tmp_path, noise(1.5, 1)), critical(money))
        poor = await engine.transcribe(spooled(tmp_path, noise(1.5, 2)), critical(money))
    assert (rich[1], poor[1]) == (Route.POLICY, Route.BUDGET_EXHAUSTED)
    assert len(api.calls) == 1
    assert money.settled == [112 + 1], "a started micro-dollar counts as one"
    assert [attempt.engine for attempt in poor[0].attempts] == ["simulated"]


@pytest.mark.parametrize("kind", [Money, Late])
async def test_without_money_and_without_another_engine_the_event_is_told_when_there_will_be_some(
    tmp_path: Path, kind: type[Money]
) -> None:
    async with ScriptedApi() as api, alone(api) as engine:
        with pytest.raises(HoldError, match="before 2026-11-26 00:00:00 UTC") as caught:
            await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish(purse=kind(0)))
    assert (caught.value.why, caught.value.reason) == (Hold.BUDGET_EXHAUSTED, Reason.BUDGET_EXHAUSTED)
    assert api.calls == []


async def test_money_that_comes_soon_is_waited_for(tmp_path: Path) -> None:
    class Soon(Money):
        def exhausted(self, microusd: int) -> Exhausted | None:
            exhausted, self.holds = super().exhausted(microusd), 1_000_000
            return exhausted

    async with ScriptedApi() as api, alone(api) as engine:
        heard, route = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish(purse=Soon(0, 0.05)))
    assert (route, heard.cost_usd) == (Route.POLICY, 75e-6)
    assert len(api.calls) == 1


async def test_what_was_tried_before_the_money_ran_out_stays_in_the_ledger(tmp_path: Path) -> None:
    money = Money(SECOND_MICROUSD)
    async with ScriptedApi([html()]) as api, alone(api) as engine:
        with pytest.raises(HoldError) as caught:
            await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish(purse=money))
    assert [(attempt.outcome, attempt.cost_usd) for attempt in caught.value.attempts] == [("engine_failed", 75e-6)]
    assert money.settled == [SECOND_MICROUSD]


async def test_a_blip_costs_what_is_sent_of_it(tmp_path: Path) -> None:
    money = Money(1_000_000)
    async with ScriptedApi() as api, running(api) as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(0.05)), Wish(purse=money))
    [call] = api.calls
    assert money.settled == [int(call.audio_seconds * SECOND_MICROUSD)] == [15]
    assert heard.cost_usd == 15e-6


async def test_a_model_without_a_price_needs_no_money(tmp_path: Path) -> None:
    money = Money(0)
    async with ScriptedApi() as api, alone(api, api_model="my-own") as engine:
        await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish(purse=money))
    assert money.granted == [0]
