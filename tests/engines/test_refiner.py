"""A chat model corrects texts within its bounds, and can neither fail nor delay an event beyond them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consumer.core.breaker import BreakerState
from consumer.core.budget import Exhausted, Grant
from consumer.core.model import Heard, Urgency, Wish
from consumer.engines.refiner import Refiner
from consumer.errors import ServiceError
from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Reason, WarningCode
from schemas.models import Attempt, EngineRef, Recognised
from tests.engines.test_paid_calls import Money
from tests.support.scripted_api import Reply, failed, html, out_of_money, too_fast
from tests.support.scripted_chat import Question, ScriptedChat

TEXT = "the quick brown fox jumps over the lazy dog"
FIXED = "The quick brown fox jumps over the lazy dog."
DIGEST = "ab" * 32
USD = (200 * 2 + 20 * 10) / 1_000_000
"""What TOKENS cost."""
KEY = "sk-made-up-0123456789-do-not-print"


def _settings(api: ScriptedChat, **changes: Any) -> Settings:
    ours = {
        "refine_model": "chatty",
        "refine_base_url": api.base_url,
        "refine_api_key": KEY,
        "refine_share": 1.0,
        "refine_input_usd_per_million_tokens": 2.0,
        "refine_output_usd_per_million_tokens": 10.0,
    }
    return Settings(**{**ours, **changes})


@asynccontextmanager
async def refining(api: ScriptedChat, *, wall_seconds: float = 20.0, **changes: Any) -> AsyncIterator[Refiner]:
    """Asks the scripted model for the length of the block."""
    refiner = Refiner(_settings(api, **changes), wall_seconds=wall_seconds)
    await refiner.start()
    try:
        yield refiner
    finally:
        await refiner.stop()


def heard_text() -> Heard:
    """What an engine heard."""
    recognised = Recognised(text=TEXT, language="en", engine=EngineRef(name="x", model="m"), audio_seconds=4.0)
    line = Attempt(engine="x", model="m", outcome="ok", audio_seconds=4.0, cost_usd=0.5, seconds=1.0)
    return Heard(recognised, 0.5, [line])


def _fix(_: Question) -> str:
    return FIXED


async def test_both_texts_are_kept_and_the_call_is_a_line_of_the_ledger_at_its_reported_price() -> None:
    async with ScriptedChat(_fix) as api, refining(api) as refiner:
        purse = Money(1_000_000)
        heard = await refiner.refine(heard_text(), DIGEST, Wish(purse=purse))
    assert (heard.recognised.text, heard.recognised.refined_text, heard.recognised.warnings) == (TEXT, FIXED, [])
    assert heard.recognised.refined_by == "chatty"
    own, line = heard.attempts
    assert own == heard_text().attempts[0]
    assert (line.engine, line.model, line.outcome) == ("refine", "chatty", "ok")
    assert (line.cost_usd, line.usage_source, line.price_version) == (USD, "reported", "settings-2.0-10.0")
    assert heard.cost_usd == pytest.approx(0.5 + USD)
    assert heard.refine_seconds is not None
    assert purse.settled == [600] < purse.granted
    (question,) = api.questions
    assert question.transcript == TEXT
    assert question.authorization == f"Bearer {KEY}"
    assert question.body["max_completion_tokens"] < 200
    assert "tools" not in question.body


async def test_what_is_not_chosen_costs_nothing() -> None:
    async with ScriptedChat(_fix) as api, refining(api, refine_share=0.0) as refiner:
        heard = await refiner.refine(heard_text(), DIGEST, Wish())
        assert heard == heard_text()
        urgent = await refiner.refine(heard_text(), DIGEST, Wish(urgency=Urgency(critical=True)))
    assert urgent.recognised.refined_text == FIXED
    assert len(api.questions) == 1


@pytest.mark.parametrize(
    ("answer", "reply", "usage", "warning", "cost_usd"),
    [
        ("As an AI I may not say that, sorry about it.", None, {}, WarningCode.REFINE_REJECTED, USD),
        (FIXED, failed(500), {}, WarningCode.REFINE_FAILED, 0.0),
        (FIXED, failed(400, "max_completion_tokens?"), {}, WarningCode.REFINE_FAILED, 0.0),
        (FIXED, html(), {}, WarningCode.REFINE_FAILED, None),
        (FIXED, None, {"finish_reason": "length"}, WarningCode.REFINE_FAILED, None),
        ("", None, {}, WarningCode.REFINE_FAILED, None),
        (FIXED, Reply(body='{"choices": 5}'), {}, WarningCode.REFINE_FAILED, None),
        (FIXED, Reply(body='{"error": {"message": "no"}}'), {}, WarningCode.REFINE_FAILED, None),
    ],
)
async def test_whatever_goes_wrong_the_text_stays_as_it_was_heard_with_a_warning(
    answer: str, reply: Reply | None, usage: dict[str, Any], warning: WarningCode, cost_usd: float | None
) -> None:
    replies = [] if reply is None else [reply]
    async with ScriptedChat(lambda _: answer, *replies, **usage) as api, refining(api) as refiner:
        purse = Money(1_000_000)
        heard = await refiner.refine(heard_text(), DIGEST, Wish(purse=purse))
    assert (heard.recognised.text, heard.recognised.refined_text, heard.recognised.refined_by) == (TEXT, None, None)
    assert heard.recognised.warnings == [warning]
    assert len(api.questions) == 1, "there is no second try"
    line = heard.attempts[-1]
    # what may have been worked on counts in full
    assert line.cost_usd == (purse.granted[0] / 1_000_000 if cost_usd is None else cost_usd)
    assert purse.settled == [round(line.cost_usd * 1_000_000)]


async def test_a_correction_that_cannot_be_written_as_it_is_does_the_event_no_harm() -> None:
    message = {"role": "assistant", "content": FIXED + "\ud800"}
    reply = Reply(body=json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
    async with ScriptedChat(_fix, reply) as api, refining(api) as refiner:
        refined = await refiner.refine(heard_text(), DIGEST, Wish())
    assert encode(refined.recognised)
    assert refined.recognised.refined_text == FIXED + "?"


async def test_a_model_that_says_nothing_of_its_tokens_counts_in_full() -> None:
    async with ScriptedChat(_fix, usage=None) as api, refining(api) as refiner:
        purse = Money(1_000_000)
        heard = await refiner.refine(heard_text(), DIGEST, Wish(purse=purse))
    assert heard.recognised.refined_text == FIXED
    assert (purse.settled, heard.attempts[-1].usage_source) == (purse.granted, "estimated")


async def test_nothing_is_asked_that_the_budget_does_not_cover() -> None:
    async with ScriptedChat(_fix) as api, refining(api) as refiner:
        heard = await refiner.refine(heard_text(), DIGEST, Wish(purse=Money(10)))
    assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
    assert (heard.cost_usd, heard.attempts, api.questions) == (0.5, heard_text().attempts, [])


async def test_a_silent_model_is_given_up_after_its_time_and_an_event_without_time_does_not_ask() -> None:
    async with ScriptedChat(_fix) as api, refining(api, wall_seconds=0.3) as refiner:
        api.may_answer.clear()
        heard = await refiner.refine(heard_text(), DIGEST, Wish())
        assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
        assert heard.attempts[-1].cost_usd > 0, "it may be billed"
        late = Wish(deadline=asyncio.get_running_loop().time() + 0.1)
        heard = await refiner.refine(heard_text(), DIGEST, late)
        assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
        assert len(api.questions) == 1
        api.may_answer.set()


async def test_money_that_is_slow_to_come_does_not_hold_an_event_beyond_its_deadline() -> None:
    class Slow(Money):
        async def reserve(self, microusd: int) -> Grant | Exhausted:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

    async with ScriptedChat(_fix) as api, refining(api) as refiner:
        wish = Wish(deadline=asyncio.get_running_loop().time() + 0.6, purse=Slow(1_000_000))
        heard = await refiner.refine(heard_text(), DIGEST, wish)
    assert (heard.recognised.warnings, api.questions) == ([WarningCode.REFINE_FAILED], [])


async def test_no_more_are_under_way_than_the_settings_say_and_who_gets_no_turn_goes_on_without() -> None:
    async with ScriptedChat(_fix) as api, refining(api, refine_concurrency=2) as refiner:
        api.may_answer.clear()
        tasks = [asyncio.create_task(refiner.refine(heard_text(), DIGEST, Wish())) for _ in range(6)]
        await api.asked.wait()
        late = Wish(deadline=asyncio.get_running_loop().time() + 0.6)
        heard = await refiner.refine(heard_text(), DIGEST, late)
        assert (heard.recognised.warnings, len(heard.attempts)) == ([WarningCode.REFINE_FAILED], 1)
        api.may_answer.set()
        assert all(heard.recognised.refined_text == FIXED for heard in await asyncio.gather(*tasks))
        assert api.chats_peak == 2


async def test_a_call_that_the_events_deadline_cuts_off_says_nothing_of_the_model() -> None:
    async with ScriptedChat(_fix) as api, refining(api, breaker_failures=1, breaker_failure_rate=1.0) as refiner:
        api.may_answer.clear()
        wish = Wish(deadline=asyncio.get_running_loop().time() + 0.8)
        heard = await refiner.refine(heard_text(), DIGEST, wish)
        assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
        assert heard.attempts[-1].outcome == Reason.DEADLINE_EXCEEDED
        assert heard.attempts[-1].cost_usd > 0, "it may be billed"
        assert refiner.breaker.state is BreakerState.CLOSED
        api.may_answer.set()
        assert (await refiner.refine(heard_text(), DIGEST, Wish())).recognised.refined_text == FIXED


async def test_no_more_is_asked_in_a_minute_than_this_processs_share_of_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ScriptedChat(_fix) as api, refining(api, refine_requests_per_minute=4) as refiner:
        refiner.gate.set_share(0.5)
        refiner.gate.add_new_share(0.5)
        wish = Wish(deadline=asyncio.get_running_loop().time() + 1.5)
        heard = await asyncio.gather(*(refiner.refine(heard_text(), DIGEST, wish) for _ in range(5)))
        texts = [one.recognised.refined_text for one in heard]
        assert (texts.count(FIXED), texts.count(None), len(api.questions)) == (2, 3, 2)
        refiner.gate.set_share(0.0)
        await refiner.refine(heard_text(), DIGEST, Wish())
    assert "let nothing through for now" in caplog.text, "nobody waits for what cannot come"
    assert len(api.questions) == 2


async def test_a_model_that_asks_for_patience_gets_it_and_is_not_taken_for_dead() -> None:
    async with ScriptedChat(_fix, too_fast(retry_after="30")) as api, refining(api) as refiner:
        for _ in range(3):
            heard = await refiner.refine(heard_text(), DIGEST, Wish())
            assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
        assert len(api.questions) == 1
        assert refiner.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("reply", [out_of_money(), failed(401)])
async def test_a_model_that_refuses_everybody_is_left_alone(reply: Reply) -> None:
    async with ScriptedChat(_fix, reply) as api, refining(api) as refiner:
        for _ in range(3):
            heard = await refiner.refine(heard_text(), DIGEST, Wish())
            assert heard.recognised.warnings == [WarningCode.REFINE_FAILED]
        assert len(api.questions) == 1
        assert refiner.breaker.state is BreakerState.OPEN


async def test_work_that_is_cut_off_says_what_it_has_cost() -> None:
    told: list[Attempt] = []
    purse = Money(1_000_000)
    async with ScriptedChat(_fix) as api, refining(api) as refiner:
        api.may_answer.clear()
        wish = Wish(spent=told.extend, purse=purse)
        task = asyncio.create_task(refiner.refine(heard_text(), DIGEST, wish))
        await api.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        api.may_answer.set()
    assert [line.engine for line in told] == ["x", "refine"]
    assert purse.settled == purse.granted


async def test_a_key_goes_to_its_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    async with ScriptedChat(_fix) as api, refining(api, refine_api_key=None) as refiner:
        await refiner.refine(heard_text(), DIGEST, Wish())
    assert [question.authorization for question in api.questions] == ["Bearer none"]


async def test_the_public_api_needs_a_key_and_any_model_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    async with ScriptedChat() as api:
        with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
            await Refiner(_settings(api, refine_base_url=None)).start()
        with pytest.raises(ValueError, match="without a price no budget could hold"):
            _settings(api, refine_output_usd_per_million_tokens=None)
