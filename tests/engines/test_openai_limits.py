"""The API's limits, as the server counts them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.core.limits import counted_seconds
from consumer.core.model import Urgency, Wish
from consumer.engines.api_gate import ApiGate, Permit
from consumer.engines.api_limits import ToldLimits, told_limits
from consumer.engines.openai_api import OpenAIEngine
from consumer.errors import EventError
from tests.engines.api_bench import noise, running, spooled
from tests.support.scripted_api import Call, Reply, ScriptedApi, too_fast
from tests.support.storm import most_in_a_window

PERIOD_SECONDS = 1.0


def departures(engine: OpenAIEngine) -> list[float]:
    """Fills with the moments at which the engine's requests are sent."""
    send, found = engine.gate._send, list[float]()

    def noted(permit: Permit) -> None:
        found.append(time.monotonic())
        send(permit)

    engine.gate._send = noted  # type: ignore[method-assign]
    return found


def most(calls: list[Call], departed: list[float], weigh: Callable[[Call], float] = lambda _: 1.0) -> float:
    """The fullest window as the server saw it. On a machine that kept requests on their way for longer than the limits
    allow for, a window is as much shorter.
    """
    arrived = sorted(call.at for call in calls)
    slowest_seconds = max(there - left for there, left in zip(arrived, sorted(departed), strict=True))
    allowed_seconds = counted_seconds(PERIOD_SECONDS) - PERIOD_SECONDS
    return most_in_a_window(calls, PERIOD_SECONDS - max(0.0, slowest_seconds - allowed_seconds), weigh)


async def test_the_request_limit_holds_in_every_window_of_the_server(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.3, seed)) for seed in range(10)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_requests_per_minute=4, api_concurrency=3) as engine,
        asyncio.TaskGroup() as group,
    ):
        departed = departures(engine)
        for recording in each:
            group.create_task(engine.transcribe(recording, Wish()))
    assert len(api.calls) == 10
    assert most(api.calls, departed) <= 4
    assert api.open_peak <= 3


async def test_failed_requests_count_against_the_limit_too(tmp_path: Path) -> None:
    recording = spooled(tmp_path, noise(0.3))
    limits = {"api_requests_per_minute": 3, "api_attempts": 10}
    async with (
        ScriptedApi([Reply(500, error={"message": "no"}), too_fast()] * 3) as api,
        running(api, period_seconds=PERIOD_SECONDS, **limits) as engine,
    ):
        departed = departures(engine)
        await engine.transcribe(recording, Wish())
    assert len(api.calls) == 7
    assert most(api.calls, departed) <= 3


async def test_the_audio_limit_holds_in_every_window_of_the_server(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.4 + 0.1 * (seed % 4), seed)) for seed in range(8)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_audio_seconds_per_minute=1.5) as engine,
        asyncio.TaskGroup() as group,
    ):
        departed = departures(engine)
        for recording in each:
            group.create_task(engine.transcribe(recording, Wish()))
    assert len(api.calls) == 8
    assert most(api.calls, departed, lambda call: call.audio_seconds) <= 1.5 + 1e-6


async def test_a_smaller_share_of_the_groups_limit_counts_at_once(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.3, seed)) for seed in range(5)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_requests_per_minute=8) as engine,
    ):
        departed = departures(engine)
        engine.gate.set_share(0.25)
        engine.gate.add_new_share(0.25)
        async with asyncio.TaskGroup() as group:
            for recording in each:
                group.create_task(engine.transcribe(recording, Wish()))
    assert most(api.calls, departed) <= 2


async def test_a_process_without_partitions_sends_nothing(tmp_path: Path) -> None:
    async with ScriptedApi() as api, running(api) as engine:
        engine.gate.set_share(0.0)
        wish = Wish(deadline=time.monotonic() + 0.2)
        with pytest.raises(EventError):
            await engine.transcribe(spooled(tmp_path, noise(0.3)), wish)
    assert api.calls == []


async def test_the_apis_own_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.3, seed)) for seed in range(6)]
    told = {"x-ratelimit-limit-requests": "3"}
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_requests_per_minute=100) as engine,
    ):
        departed = departures(engine)
        api.always(lambda _: Reply(headers=told))
        await engine.transcribe(each[0], Wish())
        async with asyncio.TaskGroup() as group:
            for recording in each[1:]:
                group.create_task(engine.transcribe(recording, Wish()))
    assert len(api.calls) == 6
    assert most(api.calls, departed) <= 3


async def test_what_the_api_says_is_used_up_is_waited_for(tmp_path: Path) -> None:
    used_up = {
        "x-ratelimit-limit-tokens": "9",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "300ms",
    }
    async with ScriptedApi([Reply(headers=used_up)]) as api, running(api) as engine:
        for seed in range(2):
            await engine.transcribe(spooled(tmp_path, noise(0.3, seed)), Wish())
    first, second = api.calls
    assert second.at - first.at >= 0.3


@pytest.mark.parametrize(
    ("reset", "seconds"), [("12ms", 0.012), ("1s", 1.0), ("6m0s", 360.0), ("1h2m3.5s", 3723.5), ("7", 7.0), ("?", None)]
)
def test_resets_are_read_in_all_their_forms(reset: str, seconds: float | None) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }
    assert told_limits(headers).hold_seconds == seconds


@pytest.mark.parametrize("nonsense", ["0", "-1", "", "many", "nan", "inf"])
def test_a_limit_that_makes_no_sense_says_nothing(nonsense: str) -> None:
    told = {"x-ratelimit-limit-requests": nonsense, "x-ratelimit-remaining-requests": "0"}
    assert told_limits({**told, "x-ratelimit-reset-requests": "9s"}) == ToldLimits()
    assert told_limits({}) == ToldLimits()


def test_what_is_used_up_counts_without_a_word_of_the_limit_and_a_header_that_came_twice_counts_once() -> None:
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    assert told_limits(used_up) == ToldLimits(hold_seconds=2.0)
    twice = {"x-ratelimit-limit-requests": "60, 30", **{name: f"{value}, {value}" for name, value in used_up.items()}}
    assert told_limits(twice) == ToldLimits(requests=30.0, hold_seconds=2.0)


async def test_urgent_requests_leave_the_queue_first() -> None:
    gate = ApiGate(requests_per_minute=100, audio_seconds_per_minute=1e6, concurrency=1)
    served: list[str] = []

    async def ask(name: str, *, urgent: bool = False) -> None:
        async with gate.turn(1.0, urgency=Urgency(critical=urgent)):
            served.append(name)

    dispatcher = asyncio.create_task(gate.run())
    async with asyncio.TaskGroup() as group, gate.turn(1.0):
        group.create_task(ask("at the door"))
        for _ in range(3):  # it queues, and the dispatcher takes it to the door
            await asyncio.sleep(0)
        group.create_task(ask("plain"))
        group.create_task(ask("urgent", urgent=True))
        await asyncio.sleep(0)
        assert gate.waiting == 3
    dispatcher.cancel()
    await asyncio.gather(dispatcher, return_exceptions=True)
    assert served == ["at the door", "urgent", "plain"]


async def test_a_request_that_becomes_urgent_moves_up_and_is_made_once() -> None:
    gate = ApiGate(requests_per_minute=100, audio_seconds_per_minute=1e6, concurrency=1)
    served: list[str] = []
    urgencies = {name: Urgency() for name in ("at the door", "first", "second", "third")}

    async def ask(name: str) -> None:
        async with gate.turn(1.0, urgency=urgencies[name]):
            served.append(name)

    dispatcher = asyncio.create_task(gate.run())
    async with asyncio.TaskGroup() as group, gate.turn(1.0):
        for name in urgencies:
            group.create_task(ask(name))
            for _ in range(3):
                await asyncio.sleep(0)
        for name in ("at the door", "third"):
            urgencies[name].raise_to_critical()
        assert gate.waiting == 4
    async with gate.turn(1.0):
        served.append("last")
    dispatcher.cancel()
    await asyncio.gather(dispatcher, return_exceptions=True)
    assert served == ["at the door", "third", "first", "second", "last"]
    assert gate.waiting == 0
