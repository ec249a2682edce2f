"""A second engine is compared with the first within its time, its share and the budget, and fails nothing."""

import asyncio
from pathlib import Path

import pytest

from consumer.core.model import Heard, Recording, Wish
from consumer.engines.choose import choose_engine, choose_shadow
from consumer.engines.second_looks import second_looks
from consumer.engines.shadow import Shadow
from consumer.engines.simulated import SimulatedEngine
from consumer.errors import ServiceError
from schemas.models import Attempt, Disagreement, EngineRef, Recognised
from tests.engines.api_bench import noise, running, settings, spooled
from tests.engines.test_paid_calls import Money
from tests.support.scripted_api import Call, ScriptedApi, failed, hang, ok

LINE = Attempt(engine="ctc", model="m", outcome="ok", audio_seconds=2.0, cost_usd=0.5, seconds=1.0)
SECONDS_USD = 2 * 0.0045 / 60


def _heard(text: str = "one cat sat on the mat", name: str = "ctc") -> Heard:
    recognised = Recognised(text=text, language="en", engine=EngineRef(name=name, model="m"), audio_seconds=2.0)
    return Heard(recognised, 0.5, [LINE])


async def _says(_: Call) -> str:
    return "one dog sat the mat today"


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return spooled(tmp_path, noise(2.0))


async def test_the_disagreement_and_the_cost_of_the_second_engine_are_added_and_nothing_else(
    recording: Recording,
) -> None:
    async with ScriptedApi(recogniser=_says) as api, running(api, shadow_share=1.0) as engine:
        purse = Money(1_000_000)
        heard = await Shadow(engine, settings(shadow_share=1.0)).compare(_heard(), recording, Wish(purse=purse))
    assert heard.recognised == _heard().recognised
    assert heard.disagreement == Disagreement(errors=3, words=6, against="openai")
    assert heard.second is not None
    assert (heard.second.text, heard.second.engine) == ("one dog sat the mat today", engine.ref)
    assert [line.engine for line in heard.attempts] == ["ctc", "openai"]
    assert heard.cost_usd == pytest.approx(0.5 + SECONDS_USD)
    assert purse.settled == [150]
    assert heard.shadow_seconds is not None
    assert api.calls[0].fields["language"] == "en", "it is asked for the language that was heard"


async def test_outside_of_the_share_nobody_is_asked(recording: Recording) -> None:
    async with ScriptedApi() as api, running(api) as engine:
        assert await Shadow(engine, settings(shadow_share=0.0)).compare(_heard(), recording, Wish()) == _heard()
    assert api.calls == []


async def test_an_engine_that_serves_is_not_compared_with_itself(recording: Recording) -> None:
    async with ScriptedApi() as api, running(api) as engine:
        shadow = Shadow(engine, settings(shadow_share=1.0), is_own=False)
        own = Heard(_heard().recognised.model_copy(update={"engine": engine.ref}), 0.5, [LINE])
        assert await shadow.compare(own, recording, Wish()) == own
        assert (await shadow.compare(_heard(), recording, Wish())).disagreement is not None
    assert len(api.calls) == 1


async def test_a_second_engine_that_hangs_costs_its_time_and_what_it_may_be_billed(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api, running(api) as engine:
        shadow = Shadow(engine, settings(shadow_share=1.0, shadow_timeout_seconds=0.5))
        heard = await shadow.compare(_heard(), recording, Wish())
    assert heard.disagreement is None
    assert [line.outcome for line in heard.attempts] == ["ok", "engine_failed"]
    assert heard.cost_usd == pytest.approx(0.5 + SECONDS_USD)


async def test_an_event_whose_deadline_is_near_is_not_held_up(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api, running(api) as engine:
        shadow = Shadow(engine, settings(shadow_share=1.0))
        wish = Wish(deadline=asyncio.get_running_loop().time() + 0.9)
        heard = await shadow.compare(_heard(), recording, wish)
        assert asyncio.get_running_loop().time() < (wish.deadline or 0)
    assert heard.disagreement is None


async def test_failures_and_an_empty_budget_leave_the_event_without_a_comparison(recording: Recording) -> None:
    async with ScriptedApi([failed(400, "no")]) as api, running(api) as engine:
        shadow = Shadow(engine, settings(shadow_share=1.0))
        refused = await shadow.compare(_heard(), recording, Wish())
        poor = await shadow.compare(_heard(), recording, Wish(purse=Money(0)))
    assert (refused.disagreement, poor.disagreement) == (None, None)
    assert refused.attempts[-1].outcome == "api_rejected"
    assert (poor.cost_usd, poor.attempts, len(api.calls)) == (0.5, [LINE], 1)


async def test_work_that_is_cut_off_says_what_both_engines_cost(recording: Recording) -> None:
    told: list[Attempt] = []
    async with ScriptedApi([hang()]) as api, running(api) as engine:
        shadow = Shadow(engine, settings(shadow_share=1.0))
        task = asyncio.create_task(shadow.compare(_heard(), recording, Wish(spent=told.extend)))
        await api.until_calls(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [line.engine for line in told] == ["ctc", "openai"]


async def test_a_text_without_words_has_no_disagreement(recording: Recording) -> None:
    async with ScriptedApi([ok()]) as api, running(api) as engine:
        heard = await Shadow(engine, settings(shadow_share=1.0)).compare(_heard(" "), recording, Wish())
    assert heard.disagreement is None


def test_engines_of_one_name_are_told_apart_by_model_and_one_engine_is_no_two() -> None:
    same = settings(engine="ctc", model="a", shadow_engine="ctc", shadow_model="a")
    with pytest.raises(ServiceError, match="with its own model"):
        choose_shadow(same, choose_engine(same))
    api = settings(engine="openai", shadow_engine="openai")
    with pytest.raises(ServiceError, match="with its own model"):
        choose_shadow(api, choose_engine(api))
    other = settings(engine="ctc", model="a", shadow_engine="ctc", shadow_model="b")
    found = choose_shadow(other, choose_engine(other))
    assert found is not None
    assert (found.ref.name, found.ref.model) == ("ctc", "b")
    with pytest.raises(ValueError, match="needs shadow_model"):
        settings(shadow_engine="whisper")


async def test_the_api_that_stands_in_is_the_one_that_is_compared_so_that_its_limits_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedApi() as api:
        monkeypatch.setenv("OPENAI_BASE_URL", api.base_url)
        shared = settings(engine="simulated", fallback="openai", shadow_engine="openai")
        serving = choose_engine(shared)
        assert choose_shadow(shared, serving) is serving.api
        alone = settings(engine="simulated", shadow_engine="openai")
        serving = choose_engine(alone)
        assert serving.api is None
        async with second_looks(alone, serving) as looks:
            assert looks.shadow is not None
            (gate,) = serving._gates
            serving.set_share(0.0)
            assert gate.shut_seconds > 0, "it takes part in the group's limits"
            assert set(looks.breakers) == {"shadow"}


async def test_an_engine_that_keeps_no_ledger_gets_a_line(recording: Recording) -> None:
    class Plain(SimulatedEngine):
        async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
            heard = await super().transcribe(recording, wish)
            return Heard(heard.recognised, heard.cost_usd)

    engine = Plain(settings(simulated_realtime_factor=1000.0, simulated_usd_per_minute=0.6))
    await engine.start()
    heard = await Shadow(engine, settings(shadow_share=1.0)).compare(_heard(name="simulated"), recording, Wish())
    await engine.stop()
    assert heard.attempts[-1].engine == "simulated"
    assert heard.attempts[-1].cost_usd == pytest.approx(0.02)
    assert heard.disagreement is not None
    assert heard.disagreement.against == "simulated/simulated"
