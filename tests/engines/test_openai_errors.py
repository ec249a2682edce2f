"""What each kind of failure means, as the real SDK brings it."""

import asyncio
import itertools
import logging
import time
from email.utils import formatdate
from pathlib import Path

import httpx2
import pytest

from consumer.core.breaker import BreakerState
from consumer.core.model import Recording, Wish
from consumer.engines.api_errors import retry_after_seconds, scrubbed
from consumer.engines.openai_api import OpenAIEngine
from consumer.errors import EventError, ReasonedError, RecordingError, SlowDownError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason
from tests.engines.api_bench import KEY, no_sleep, noise, running, settings, spooled
from tests.support.scripted_api import (
    Call,
    Reply,
    ScriptedApi,
    failed,
    hang,
    html,
    out_of_money,
    reset,
    too_fast,
    truncated,
)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return spooled(tmp_path, noise(1.0))


async def failure_of(engine: OpenAIEngine, recording: Recording, wish: Wish | None = None) -> ReasonedError:
    with pytest.raises(ReasonedError) as caught:
        await engine.transcribe(recording, wish or Wish())
    assert KEY not in caught.value.detail
    return caught.value


@pytest.mark.parametrize(
    ("reply", "may_be_billed"),
    [
        (failed(500), False),
        (failed(503, headers={"retry-after": "1"}), False),
        (failed(408), False),
        (failed(409), False),
        (reset(), True),
        (html(), True),
        (truncated(), True),
        (Reply(body='{"text": 5}'), True),
        (Reply(body='["text"]'), True),
        (Reply(body=""), True),
        (Reply(body="[" * 100_000), True),
        (Reply(body='{"text": null}'), True),
        (Reply(body='{"error": {"message": "no", "code": "server_error"}}'), True),
    ],
)
async def test_a_passing_failure_is_tried_again_and_entered(
    recording: Recording, reply: Reply, may_be_billed: bool
) -> None:
    async with ScriptedApi([reply]) as api, running(api) as engine:
        heard = await engine.transcribe(recording, Wish())
    first, second = heard.attempts
    assert first.outcome == Reason.ENGINE_FAILED
    assert (first.cost_usd > 0) == may_be_billed
    assert first.usage_source == "estimated"
    assert second.outcome == "ok"
    assert heard.cost_usd == pytest.approx(first.cost_usd + second.cost_usd)
    assert len(api.calls) == 2


async def test_used_up_attempts_stay_passing_for_the_caller(recording: Recording) -> None:
    async with ScriptedApi([failed(500)] * 4) as api, running(api, api_attempts=4) as engine:
        error = await failure_of(engine, recording)
    assert isinstance(error, TransientError)
    assert "tried 4 times" in error.detail
    assert len(error.attempts) == len(api.calls) == 4


async def test_failures_in_a_row_open_the_breaker_and_end_the_tries(recording: Recording) -> None:
    async with ScriptedApi([failed(500)] * 9) as api, running(api, breaker_failures=2, api_attempts=9) as engine:
        await failure_of(engine, recording)
        assert engine.breaker.state is BreakerState.OPEN
        error = await failure_of(engine, recording)
    assert isinstance(error, SlowDownError)
    assert error.attempts == [], "nothing was sent"
    assert len(api.calls) == 2


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_a_refused_recording_is_at_fault_itself(recording: Recording, status: int) -> None:
    async with ScriptedApi([failed(status, "Audio file might be corrupted")]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
    assert isinstance(error, RecordingError)
    assert error.reason is Reason.API_REJECTED
    assert "corrupted" in error.detail
    assert len(api.calls) == len(error.attempts) == 1
    assert engine.breaker.state is BreakerState.CLOSED


async def test_a_refused_model_is_the_settings_fault_not_the_recordings(recording: Recording) -> None:
    wrong = failed(400, "invalid model ID", param="model", code="model_not_found")
    async with ScriptedApi([wrong]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
    assert isinstance(error, TransientError)
    assert "EARWITNESS_API_MODEL" in error.detail
    assert engine.breaker.state is BreakerState.OPEN


async def test_a_refused_language_is_the_wishs_fault(recording: Recording) -> None:
    async with ScriptedApi([failed(400, "no such language", param="language")]) as api, running(api) as engine:
        error = await failure_of(engine, recording, Wish(language="bo"))
    assert type(error) is EventError
    assert error.reason is Reason.UNSUPPORTED_LANGUAGE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("insufficient_quota", "insufficient_quota"),
        ("other", "insufficient_quota"),
        ("credit_balance_exhausted", "billing"),
        ("project_spend_limit_exceeded", "x"),
        ("organization_spend_limit_exceeded", "x"),
        ("organization_usage_limit_exceeded", "x"),
    ],
)
async def test_a_billing_429_opens_the_breaker_at_once(recording: Recording, code: str, kind: str) -> None:
    async with ScriptedApi([out_of_money(code, kind)]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
        assert engine.breaker.state is BreakerState.OPEN
    assert isinstance(error, TransientError)
    assert "billing" in error.detail
    assert len(api.calls) == 1


async def test_billing_outranks_a_status_that_would_condemn_the_recording(recording: Recording) -> None:
    broke = failed(400, "Billing hard limit has been reached", code="billing_hard_limit_reached")
    async with ScriptedApi([broke]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
        assert engine.breaker.state is BreakerState.OPEN
    assert isinstance(error, TransientError)


async def test_a_refusal_whose_fields_are_of_the_wrong_type_is_one_all_the_same(recording: Recording) -> None:
    async with ScriptedApi([failed(422, "bad", param=["file"], code={})]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
    assert error.reason is Reason.API_REJECTED
    assert len(error.attempts) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_opens_the_breaker_and_is_never_repeated(
    recording: Recording, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = failed(status, f"Incorrect API key provided: {KEY}", code="invalid_api_key")
    async with ScriptedApi([echo]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
        assert engine.breaker.state is BreakerState.OPEN
        assert KEY not in engine.breaker.reason
    assert "OPENAI_API_KEY" in error.detail
    assert KEY not in caplog.text
    assert len(api.calls) == 1


async def test_a_key_that_any_answer_repeats_is_blotted_out(
    recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with ScriptedApi([failed(500, f"cannot use {KEY} now")] * 2) as api, running(api, api_attempts=2) as engine:
        error = await failure_of(engine, recording)
    assert "cannot use *** now" in error.detail
    assert KEY not in caplog.text
    assert len(api.calls) == 2


async def test_a_rate_429_slows_down_and_leaves_the_breaker_alone(recording: Recording) -> None:
    async with ScriptedApi([too_fast(retry_after_ms="80")] * 3) as api, running(api, breaker_failures=1) as engine:
        heard = await engine.transcribe(recording, Wish())
        assert engine.breaker.state is BreakerState.CLOSED
    assert [attempt.outcome for attempt in heard.attempts] == [Reason.ENGINE_FAILED] * 3 + ["ok"]
    assert [attempt.cost_usd for attempt in heard.attempts[:3]] == [0.0] * 3
    stamps = [call.at for call in api.calls]
    assert all(after - before >= 0.08 for before, after in itertools.pairwise(stamps))


async def test_the_server_that_forbids_a_retry_gets_none(recording: Recording) -> None:
    final = too_fast(x_should_retry="false"), failed(500, headers={"x-should-retry": "false"})
    async with ScriptedApi(final) as api, running(api) as engine:
        assert isinstance(await failure_of(engine, recording), SlowDownError)
        assert isinstance(await failure_of(engine, recording), TransientError)
    assert len(api.calls) == 2


async def test_a_wait_of_many_minutes_is_handed_on_instead_of_slept(recording: Recording) -> None:
    async with ScriptedApi([too_fast(retry_after="600")]) as api, running(api) as engine:
        error = await failure_of(engine, recording)
        assert isinstance(error, SlowDownError)
        assert error.retry_after_seconds == 600.0
        assert not engine.breaker.would_allow(time.monotonic() + 500)
    assert len(api.calls) == 1


async def test_a_wait_longer_than_events_are_held_is_handed_on_too(recording: Recording) -> None:
    slow_down = [too_fast(retry_after="30")]
    async with ScriptedApi(slow_down) as api, running(api, max_hold_seconds=10.0) as engine:
        error = await failure_of(engine, recording)
        assert isinstance(error, SlowDownError)
        assert 29 < engine.breaker.wait_seconds(time.monotonic()) <= 30
    assert len(api.calls) == 1


async def test_what_one_request_is_asked_to_wait_all_wait(recording: Recording) -> None:
    async def shut_seconds(_seconds: float) -> None:
        shut.append(engine.gate.shut_seconds)
        raise asyncio.CancelledError

    shut = list[float]()
    async with ScriptedApi([too_fast(retry_after="30")]) as api:
        chosen = settings(api_timeout_seconds=2.0)
        engine = OpenAIEngine(chosen, base_url=api.base_url, api_key=KEY, sleep=shut_seconds)
        await engine.start()
        with pytest.raises(asyncio.CancelledError):
            await engine.transcribe(recording, Wish())
        await engine.stop()
    assert shut == [pytest.approx(30.0, abs=1.0)]


async def test_events_that_meet_a_probe_on_its_way_leave_its_verdict_alone(recording: Recording) -> None:
    answered = asyncio.Event()

    async def slow(_: Call) -> str:
        await answered.wait()
        return "hello"

    now = 0.0
    async with ScriptedApi(recogniser=slow) as api:
        engine = OpenAIEngine(Settings(), base_url=api.base_url, api_key=KEY, clock=lambda: now, sleep=no_sleep)
        await engine.start()
        engine.breaker.trip("it was down", now)
        now = engine.breaker.wait_seconds(now)
        probe = asyncio.create_task(engine.transcribe(recording, Wish()))
        await api.until_calls(1)
        error = await failure_of(engine, recording)
        assert isinstance(error, SlowDownError)
        assert not engine.breaker.would_allow(now)
        answered.set()
        assert (await probe).recognised.text == "hello"
        assert engine.breaker.state is BreakerState.CLOSED
        await engine.stop()
    assert len(api.calls) == 1


async def test_a_call_that_hangs_is_ended_by_our_own_clock(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api, running(api, api_timeout_seconds=0.3, api_attempts=1) as engine:
        error = await failure_of(engine, recording)
        api.release()
    assert isinstance(error, TransientError)
    assert "in time" in error.detail
    assert error.attempts[0].cost_usd > 0, "a silent call may have been paid for"


async def test_a_server_that_is_not_there_costs_nothing(recording: Recording) -> None:
    engine = OpenAIEngine(settings(api_attempts=2), base_url="http://127.0.0.1:9/v1", api_key=KEY, sleep=no_sleep)
    await engine.start()
    error = await failure_of(engine, recording)
    await engine.stop()
    assert "cannot be reached" in error.detail
    assert [attempt.cost_usd for attempt in error.attempts] == [0.0, 0.0]


async def test_stopping_ends_calls_that_run_and_calls_that_wait(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api:
        async with running(api, api_concurrency=1) as engine:
            tasks = [asyncio.create_task(engine.transcribe(recording, Wish())) for _ in range(3)]
            await api.until_calls(1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, TransientError) for result in results)


async def test_a_cancelled_call_gives_its_place_back(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api, running(api, api_concurrency=1) as engine:
        first = asyncio.create_task(engine.transcribe(recording, Wish()))
        await api.until_calls(1)
        waiting = asyncio.create_task(engine.transcribe(recording, Wish()))
        await asyncio.sleep(0)
        for task in (waiting, first):
            task.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        heard = await engine.transcribe(recording, Wish())
    assert heard.attempts[-1].outcome == "ok"


async def test_an_event_whose_deadline_passes_in_the_queue_says_so(recording: Recording) -> None:
    async with ScriptedApi([hang()]) as api, running(api, api_concurrency=1) as engine:
        first = asyncio.create_task(engine.transcribe(recording, Wish()))
        await api.until_calls(1)
        error = await failure_of(engine, recording, Wish(deadline=time.monotonic() + 0.1))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert error.reason is Reason.DEADLINE_EXCEEDED


async def test_a_part_that_was_paid_for_is_not_paid_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from consumer.core.prices import api_model
    from consumer.engines import openai_api

    monkeypatch.setattr(openai_api, "api_model", lambda *_: replace(api_model("whisper-1"), max_seconds=2.0))
    recording = spooled(tmp_path, noise(3.0))
    async with ScriptedApi() as api, running(api, api_attempts=1) as engine:
        api.always(lambda _: failed(500) if len(api.calls) == 2 else None)
        error = await failure_of(engine, recording)
        assert [attempt.outcome for attempt in error.attempts] == ["ok", Reason.ENGINE_FAILED]
        heard = await engine.transcribe(recording, Wish())
    assert len(api.calls) == 3
    assert len(heard.attempts) == 1
    assert len(heard.recognised.segments) == 2


def test_retry_after_is_read_in_all_its_forms() -> None:
    def read(**headers: str) -> float | None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return retry_after_seconds(httpx2.Headers(named), 1_000_000.0)

    assert read(retry_after_ms="1500", retry_after="9") == 1.5
    assert read(retry_after="2.5") == 2.5
    assert read(retry_after="2, 3") == 3.0, "it came twice"
    assert read(retry_after=formatdate(1_000_030.0, usegmt=True)) == 30.0
    assert read(retry_after=formatdate(999_000.0, usegmt=True)) is None
    for nonsense in ("soon", "-1", "nan", "inf", "", "0"):
        assert read(retry_after=nonsense) is None
    assert read() is None


def test_whatever_looks_like_a_key_is_blotted_out_of_details() -> None:
    said = scrubbed("key sk-proj-abc*DEF was wrong,\n use Bearer xyz.123 or api_key=hunter2", "")
    assert said == "key *** was wrong, use *** or ***"
    assert len(scrubbed("x" * 5000, "")) == 300
