"""A local engine that dies and comes back, with the API beside it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer.core.breaker import BreakerState
from consumer.core.model import Heard, Recording, Urgency, Wish
from consumer.core.router import Side
from consumer.engines.hybrid import HybridEngine
from consumer.engines.openai_api import OpenAIEngine
from consumer.errors import EventError, HoldError, RecordingError, SlowDownError, TransientError
from consumer.turns import Turns
from schemas.codes import Hold, Reason, Route
from schemas.models import EngineRef, Recognised
from tests.engines.api_bench import KEY, no_sleep, noise, settings, spooled
from tests.support.scripted_api import ScriptedApi, failed, out_of_money, too_fast

DEAD = TransientError(Reason.ENGINE_FAILED, "the worker died")


class Local:
    """A local engine of one language that fails as told."""

    ref = EngineRef(name="whisper", model="tiny")

    def __init__(self) -> None:
        self.fault: Callable[[Recording], Exception | None] = lambda _: None
        self.calls = 0
        self.called = asyncio.Event()
        self.hung: asyncio.Event | None = None
        self.infer_seconds: float | None = None

    def break_with(self, error: Exception | None) -> None:
        self.fault = lambda _: error

    def language_of(self, wish: Wish) -> str | None:
        if wish.language not in (None, "en"):
            raise EventError(Reason.UNSUPPORTED_LANGUAGE, "only English")
        return "en"

    async def start(self) -> None:
        self.break_with(None)

    async def stop(self) -> None:
        self.break_with(DEAD)

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        self.calls += 1
        self.called.set()
        if self.hung is not None:
            await self.hung.wait()
        if (error := self.fault(recording)) is not None:
            raise error
        heard = Recognised(text="local words", engine=self.ref, audio_seconds=recording.audio_seconds)
        return Heard(heard, 0.0, infer_seconds=self.infer_seconds)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.local = Local()
        self.skip_seconds = 0.0
        self._seed = 0

    def clock(self) -> float:
        return time.monotonic() + self.skip_seconds

    def recording(self) -> Recording:
        self._seed += 1
        return spooled(self.folder, noise(0.3, self._seed))

    @asynccontextmanager
    async def with_api(self, api: ScriptedApi, **changes: Any) -> AsyncIterator[HybridEngine]:
        values = {"breaker_failures": 3, "breaker_reset_seconds": 1000.0, "api_attempts": 2, **changes}
        fallback = OpenAIEngine(
            settings(**values), base_url=api.base_url, api_key=KEY, clock=self.clock, sleep=no_sleep
        )
        engine = HybridEngine(self.local, fallback, settings(**values), clock=self.clock)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()

    def alone(self, **changes: Any) -> HybridEngine:
        values = {"breaker_failures": 3, "breaker_reset_seconds": 0.05, **changes}
        return HybridEngine(self.local, None, settings(**values), clock=self.clock)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_healthy_local_engine_serves_and_the_api_hears_nothing(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        heard, route = await engine.transcribe(bench.recording(), Wish())
    assert (heard.recognised.text, route) == ("local words", Route.LOCAL)
    [attempt] = heard.attempts
    assert (attempt.engine, attempt.outcome, attempt.usage_source) == ("whisper", "ok", "measured")
    assert api.calls == []


async def test_with_the_local_engine_dead_the_texts_still_come_marked_breaker_open(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        bench.local.break_with(DEAD)
        results = await asyncio.gather(*(engine.transcribe(bench.recording(), Wish()) for _ in range(8)))
        assert engine.breaker_states() == {"primary": BreakerState.OPEN, "fallback": BreakerState.CLOSED}
        bench.local.called.clear()
        await engine.transcribe(bench.recording(), Wish())
        assert not bench.local.called.is_set(), "it is left alone"
    assert {route for _, route in results} == {Route.BREAKER_OPEN}
    assert {heard.recognised.engine.name for heard, _ in results} == {"openai"}
    assert len({heard.recognised.text for heard, _ in results}) == 8
    assert len(api.calls) == 9
    tries = [attempt for heard, _ in results for attempt in heard.attempts]
    assert sum(attempt.engine == "whisper" and attempt.outcome == "engine_failed" for attempt in tries) >= 3
    assert all(heard.attempts[-1].outcome == "ok" for heard, _ in results)


async def test_it_goes_back_to_the_local_engine_after_the_probe(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        bench.local.break_with(DEAD)
        await engine.transcribe(bench.recording(), Wish())
        bench.skip_seconds += 1001
        _, route = await engine.transcribe(bench.recording(), Wish())
        assert route is Route.BREAKER_OPEN, "the probe failed; the text comes from the API"
        bench.local.break_with(None)
        _, route = await engine.transcribe(bench.recording(), Wish())
        assert route is Route.BREAKER_OPEN, "it is not asked before its time"
        bench.skip_seconds += 1001
        _, route = await engine.transcribe(bench.recording(), Wish())
        assert route is Route.LOCAL
        assert engine.breaker_states()["primary"] is BreakerState.CLOSED


async def test_while_a_probe_hangs_the_others_go_to_the_api(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        bench.local.break_with(DEAD)
        await engine.transcribe(bench.recording(), Wish())
        bench.skip_seconds += 1001
        bench.local.hung = asyncio.Event()
        bench.local.called.clear()
        probe = asyncio.create_task(engine.transcribe(bench.recording(), Wish()))
        await bench.local.called.wait()
        _, route = await engine.transcribe(bench.recording(), Wish())
        assert route is Route.BREAKER_OPEN
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        bench.local.hung = None
        bench.local.break_with(None)
        _, route = await engine.transcribe(bench.recording(), Wish())
        assert route is Route.LOCAL, "a cancelled probe passes its turn on"


async def test_with_both_down_events_wait_and_are_served_once_the_local_engine_is_back(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, breaker_reset_seconds=0.05) as engine:
        api.always(lambda _: out_of_money())
        bench.local.break_with(DEAD)
        waiting = [asyncio.create_task(engine.transcribe(bench.recording(), Wish())) for _ in range(5)]
        await api.until_calls(3)
        assert not any(task.done() for task in waiting)
        bench.local.break_with(None)
        results = await asyncio.gather(*waiting)
    assert {heard.recognised.text for heard, _ in results} == {"local words"}


async def test_without_a_fallback_events_wait_for_the_local_engine(bench: Bench) -> None:
    engine = bench.alone()
    bench.local.break_with(DEAD)
    waiting = [asyncio.create_task(engine.transcribe(bench.recording(), Wish())) for _ in range(5)]
    async with asyncio.timeout(30):
        while bench.local.calls < 7:  # beyond the breaker's limit: probes fail too
            bench.local.called.clear()
            await bench.local.called.wait()
    assert not any(task.done() for task in waiting)
    bench.local.break_with(None)
    results = await asyncio.gather(*waiting)
    assert {route for _, route in results} == {Route.LOCAL}
    assert all(heard.attempts[-1].outcome == "ok" for heard, _ in results)


async def test_a_deadline_ends_the_wait_with_its_own_reason_and_the_tries(bench: Bench) -> None:
    engine = bench.alone(breaker_reset_seconds=1000.0)
    bench.local.break_with(DEAD)
    with pytest.raises(EventError) as caught:
        await engine.transcribe(bench.recording(), Wish(deadline=bench.clock() + 2.0))
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert "primary open" in caught.value.detail
    assert {attempt.outcome for attempt in caught.value.attempts} == {Reason.ENGINE_FAILED}


async def test_an_event_that_becomes_critical_on_its_way_goes_to_the_api_at_the_next_try(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, critical_route="api") as engine:
        bench.local.hung = asyncio.Event()
        wish = Wish()
        going = asyncio.create_task(engine.transcribe(bench.recording(), wish))
        await bench.local.called.wait()
        wish.urgency.raise_to_critical()
        bench.local.break_with(DEAD)
        bench.local.hung.set()
        heard, route = await going
    assert route is Route.POLICY
    assert [attempt.engine for attempt in heard.attempts] == ["whisper", "openai"]


async def test_critical_events_go_to_the_api_by_policy_and_stay_local_while_it_is_down(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, critical_route="api") as engine:
        assert (await engine.transcribe(bench.recording(), Wish(urgency=Urgency(critical=True))))[1] is Route.POLICY
        assert (await engine.transcribe(bench.recording(), Wish()))[1] is Route.LOCAL
        api.always(lambda _: out_of_money())
        heard, route = await engine.transcribe(bench.recording(), Wish(urgency=Urgency(critical=True)))
    assert route is Route.LOCAL
    assert [attempt.engine for attempt in heard.attempts] == ["openai", "whisper"]


async def test_an_api_that_only_asks_for_patience_keeps_no_event_from_an_engine_that_has_time(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, critical_route="api") as engine:
        api.always(lambda _: too_fast())
        heard, _ = await engine.transcribe(bench.recording(), Wish(urgency=Urgency(critical=True)))
        assert engine.breaker_states()["fallback"] is BreakerState.CLOSED
    assert heard.recognised.text == "local words"
    assert len(api.calls) == 2


async def test_an_event_waits_at_no_gate_that_opens_after_its_deadline(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, critical_route="api") as engine:
        assert engine.api is not None
        engine.api.gate.hold(60.0)
        wish = Wish(urgency=Urgency(critical=True), deadline=bench.clock() + 30.0)
        heard, _ = await engine.transcribe(bench.recording(), wish)
    assert heard.recognised.text == "local words"
    assert api.calls == []


async def test_who_waits_for_a_turn_goes_elsewhere_once_the_api_asks_for_very_long_patience(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, critical_route="api", api_concurrency=1) as engine:
        api.always(lambda _: too_fast(retry_after="1000000000"))
        wishes = [Wish(urgency=Urgency(critical=True)) for _ in range(3)]
        found = await asyncio.gather(*(engine.transcribe(bench.recording(), wish) for wish in wishes))
    assert {heard.recognised.text for heard, _ in found} == {"local words"}
    assert len(api.calls) == 1


async def test_nobody_is_sent_away_for_as_long_as_a_probe_may_take(bench: Bench) -> None:
    engine = bench.alone(max_hold_seconds=1.0)
    bench.local.hung = asyncio.Event()
    engine.breakers["primary"].trip("it was down", bench.clock(), hold_seconds=0.0)
    both = [asyncio.create_task(engine.transcribe(bench.recording(), Wish())) for _ in range(2)]
    await bench.local.called.wait()
    bench.local.hung.set()
    assert [route for _, route in await asyncio.gather(*both)] == [Route.LOCAL] * 2


async def test_another_language_goes_to_the_engine_that_can(bench: Bench) -> None:
    german = Wish(language="de-AT")
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        assert engine.language_of(german) == "de"
        assert engine.language_of(Wish()) == "en"
        heard, route = await engine.transcribe(bench.recording(), german)
        assert route is Route.POLICY
        assert heard.recognised.language == "de"
    alone = bench.alone()
    with pytest.raises(EventError) as caught:
        alone.language_of(german)
    assert caught.value.reason is Reason.UNSUPPORTED_LANGUAGE
    with pytest.raises(EventError) as caught:
        await alone.transcribe(bench.recording(), german)
    assert caught.value.reason is Reason.UNSUPPORTED_LANGUAGE


async def test_bytes_that_are_at_fault_are_not_sent_to_the_api_as_well(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api) as engine:
        bench.local.break_with(RecordingError(Reason.POISON, "it kills the worker"))
        for _ in range(4):
            with pytest.raises(RecordingError) as caught:
                await engine.transcribe(bench.recording(), Wish())
            assert [attempt.outcome for attempt in caught.value.attempts] == [Reason.POISON]
        assert engine.breaker_states()["primary"] is BreakerState.CLOSED
    assert api.calls == []


async def test_the_api_condemns_bytes_only_by_saying_so(bench: Bench) -> None:
    async with ScriptedApi([failed(400, "unreadable")]) as api, bench.with_api(api) as engine:
        bench.local.break_with(DEAD)
        with pytest.raises(RecordingError) as caught:
            await engine.transcribe(bench.recording(), Wish())
        assert caught.value.reason is Reason.API_REJECTED
        assert [attempt.engine for attempt in caught.value.attempts] == ["whisper"] * 3 + ["openai"]
        api.script(failed(500), failed(503))
        heard, _ = await engine.transcribe(bench.recording(), Wish())
    assert [attempt.outcome for attempt in heard.attempts] == [Reason.ENGINE_FAILED] * 2 + ["ok"]


async def test_a_recording_that_fails_while_others_are_served_is_given_up(bench: Bench) -> None:
    engine = bench.alone(breaker_failures=50)
    bad = bench.recording()
    bench.local.fault = lambda recording: DEAD if recording.digest == bad.digest else None
    failing = asyncio.create_task(_failure(engine, bad))
    # others are served during each of its tries
    original = bench.local.transcribe

    async def beside(recording: Recording, wish: Wish) -> Heard:
        if recording.digest == bad.digest:
            await engine.transcribe(bench.recording(), Wish())
        return await original(recording, wish)

    bench.local.transcribe = beside  # type: ignore[method-assign]
    error = await failing
    assert error.reason is Reason.ATTEMPTS_EXHAUSTED
    assert not isinstance(error, TransientError)
    assert len(error.attempts) == 5


async def _failure(engine: HybridEngine, recording: Recording) -> EventError:
    with pytest.raises(EventError) as caught:
        await engine.transcribe(recording, Wish())
    return caught.value


async def test_a_plea_for_patience_never_opens_the_breaker_or_condemns_the_event(bench: Bench) -> None:
    engine = bench.alone()
    bench.local.fault = lambda _: SlowDownError(Reason.ENGINE_FAILED, "queue full") if bench.local.calls < 9 else None
    heard, route = await engine.transcribe(bench.recording(), Wish())
    assert route is Route.LOCAL
    assert len(heard.attempts) == 9
    assert engine.breaker_states()["primary"] is BreakerState.CLOSED


async def test_an_api_as_the_configured_engine_is_called_by_policy_and_waits_out_its_own_troubles(
    bench: Bench,
) -> None:
    values = {"breaker_failures": 3, "breaker_reset_seconds": 0.05, "api_attempts": 2}
    async with ScriptedApi([failed(500)] * 5 + [out_of_money()]) as api:
        primary = OpenAIEngine(settings(**values), base_url=api.base_url, api_key=KEY, sleep=no_sleep)
        engine = HybridEngine(primary, None, settings(**values))
        await engine.start()
        heard, route = await engine.transcribe(bench.recording(), Wish())
        await engine.stop()
    assert route is Route.POLICY
    assert [attempt.outcome for attempt in heard.attempts] == [Reason.ENGINE_FAILED] * 6 + ["ok"]


async def test_neither_a_sick_engine_nor_its_return_moves_a_crowd_in_one_turn_of_the_loop() -> None:
    looks = 0

    def clock() -> float:  # to look at it takes a millisecond
        nonlocal looks
        looks += 1
        return looks / 1000

    async def most_looks_in_a_turn() -> int:
        most = 0
        for _ in range(500):
            before = looks
            await asyncio.sleep(0)
            most = max(most, looks - before)
        return most

    local = Local()
    engine = HybridEngine(local, None, settings(max_hold_seconds=1e6, breaker_reset_seconds=3600.0), clock=clock)
    engine._turns = Turns(0.01, lambda: looks / 1000)
    local.hung = asyncio.Event()
    local.break_with(DEAD)
    recordings = [Recording(f"{number}", Path("unread.pcm"), 16_000) for number in range(200)]
    waiting = [asyncio.create_task(engine.transcribe(recording, Wish())) for recording in recordings]
    await most_looks_in_a_turn()
    assert local.calls == len(waiting)

    local.hung.set()
    assert await most_looks_in_a_turn() < 100
    assert engine.breaker_states()["primary"] is BreakerState.OPEN

    local.break_with(None)
    breaker = engine._sides[Side.PRIMARY].breaker
    assert breaker.allow(clock() + 7200.0)
    assert await most_looks_in_a_turn() < 100
    breaker.record_success(clock())
    assert await most_looks_in_a_turn() < 100
    assert {task.result()[1] for task in waiting} == {Route.LOCAL}


async def test_a_rule_sends_a_tenants_events_to_the_api(bench: Bench) -> None:
    async with ScriptedApi() as api, bench.with_api(api, route_rules=["tenant=acme:api"]) as engine:
        assert (await engine.transcribe(bench.recording(), Wish(tenant="acme")))[1] is Route.POLICY
        assert (await engine.transcribe(bench.recording(), Wish(tenant="other")))[1] is Route.LOCAL
    assert len(api.calls) == 1


async def test_an_event_that_the_local_queue_would_make_late_goes_to_the_api(bench: Bench) -> None:
    def takes_ten_seconds(_: Recording) -> None:
        bench.skip_seconds += 10.0

    async with ScriptedApi() as api, bench.with_api(api) as engine:
        bench.local.fault = takes_ten_seconds
        first = Wish(deadline=bench.clock() + 5.0)
        assert (await engine.transcribe(bench.recording(), first))[1] is Route.LOCAL, "nothing was measured yet"
        tight, wide = Wish(deadline=bench.clock() + 5.0), Wish(deadline=bench.clock() + 1000.0)
        assert (await engine.transcribe(bench.recording(), tight))[1] is Route.DEADLINE
        assert (await engine.transcribe(bench.recording(), wide))[1] is Route.LOCAL
        assert engine.is_idle
    assert len(api.calls) == 1


class Held(Local):
    """An engine that serves nobody before a moment."""

    ref = EngineRef(name="openai", model="held")

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        if time.time() < self.until:
            self.calls += 1
            raise HoldError(Hold.BUDGET_EXHAUSTED, Reason.BUDGET_EXHAUSTED, "the budget is used up", until=self.until)
        return await super().transcribe(recording, wish)


async def test_with_the_apis_budget_used_up_the_local_engine_serves(bench: Bench) -> None:
    api = Held(time.time() + 3600)
    engine = HybridEngine(bench.local, api, settings(critical_route="api"), clock=bench.clock)
    heard, route = await engine.transcribe(bench.recording(), Wish(urgency=Urgency(critical=True)))
    assert (heard.recognised.text, route) == ("local words", Route.BUDGET_EXHAUSTED)
    assert api.calls == 1
    assert engine.breaker_states()["fallback"] is BreakerState.CLOSED


async def test_an_event_that_only_a_held_engine_can_serve_is_handed_back_with_the_time(bench: Bench) -> None:
    until = time.time() + 3600
    engine = HybridEngine(Held(until), None, settings(), clock=bench.clock)
    for deadline in (None, bench.clock() + 60.0):
        with pytest.raises(HoldError) as caught:
            await engine.transcribe(bench.recording(), Wish(deadline=deadline))
        assert (caught.value.why, caught.value.until) == (Hold.BUDGET_EXHAUSTED, until)


async def test_a_short_hold_is_waited_out(bench: Bench) -> None:
    engine = HybridEngine(Held(time.time() + 0.2), None, settings(), clock=bench.clock)
    heard, _ = await engine.transcribe(bench.recording(), Wish())
    assert heard.recognised.text == "local words"


async def test_a_wait_of_many_minutes_that_the_api_asks_for_is_handed_back_with_the_time(bench: Bench) -> None:
    async with ScriptedApi([too_fast(retry_after="600")]) as api:
        primary = OpenAIEngine(settings(), base_url=api.base_url, api_key=KEY, sleep=no_sleep)
        engine = HybridEngine(primary, None, settings())
        await engine.start()
        with pytest.raises(HoldError) as caught:
            await engine.transcribe(bench.recording(), Wish())
        with pytest.raises(EventError) as late:
            await engine.transcribe(bench.recording(), Wish(deadline=time.monotonic() + 0.1))
        await engine.stop()
    assert caught.value.why is Hold.ENGINE
    assert 590 < caught.value.until - time.time() <= 601
    assert len(caught.value.attempts) == 1
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert len(api.calls) == 1


@pytest.mark.parametrize("has_another", [True, False])
async def test_a_slow_engine_is_left_alone_only_if_another_one_can_serve(bench: Bench, has_another: bool) -> None:
    values = {"breaker_slow_seconds": 0.1, "breaker_failures": 2, "breaker_failure_rate": 1.0, "breaker_slow_rate": 1.0}
    engine = HybridEngine(bench.local, Held(0.0) if has_another else None, settings(**values), clock=bench.clock)
    bench.local.infer_seconds = 5.0
    for _ in range(3):
        await engine.transcribe(bench.recording(), Wish())
    assert (engine.breaker_status()["primary"].state is BreakerState.OPEN) == has_another
