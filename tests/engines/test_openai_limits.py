"""The API's limits, as the server counts them."""

import asyncio
import time
from pathlib import Path

import pytest

from consumer.core.model import Urgency, Wish
from consumer.engines.api_gate import ApiGate
from consumer.errors import EventError
from tests.engines.api_bench import noise, running, spooled
from tests.support.scripted_api import Call, Reply, ScriptedApi, too_fast

PERIOD_SECONDS = 0.5


def most_in_a_window(calls: list[Call], weight: float | None = None) -> float:
    """The fullest window that starts at any request: how many, or how many seconds of audio."""

    def total(start: Call) -> float:
        inside = [call for call in calls if start.at <= call.at < start.at + PERIOD_SECONDS]
        return float(len(inside)) if weight is None else sum(call.audio_seconds for call in inside)

    return max(total(call) for call in calls)


async def test_the_request_limit_holds_in_every_window_of_the_server(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.3, seed)) for seed in range(14)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_requests_per_minute=4, api_concurrency=3) as engine,
        asyncio.TaskGroup() as group,
    ):
        for recording in each:
            group.create_task(engine.transcribe(recording, Wish()))
    assert len(api.calls) == 14
    assert most_in_a_window(api.calls) <= 4
    assert api.open_peak <= 3


async def test_failed_requests_count_against_the_limit_too(tmp_path: Path) -> None:
    recording = spooled(tmp_path, noise(0.3))
    limits = {"api_requests_per_minute": 3, "api_attempts": 10}
    async with (
        ScriptedApi([Reply(500, error={"message": "no"}), too_fast()] * 4) as api,
        running(api, period_seconds=PERIOD_SECONDS, **limits) as engine,
    ):
        await engine.transcribe(recording, Wish())
    assert len(api.calls) == 9
    assert most_in_a_window(api.calls) <= 3


async def test_the_audio_limit_holds_in_every_window_of_the_server(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.4 + 0.1 * (seed % 4), seed)) for seed in range(10)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_audio_seconds_per_minute=1.5) as engine,
        asyncio.TaskGroup() as group,
    ):
        for recording in each:
            group.create_task(engine.transcribe(recording, Wish()))
    assert len(api.calls) == 10
    assert most_in_a_window(api.calls, weight=1.0) <= 1.5 + 1e-6


async def test_a_smaller_share_of_the_groups_limit_counts_at_once(tmp_path: Path) -> None:
    each = [spooled(tmp_path, noise(0.3, seed)) for seed in range(6)]
    async with (
        ScriptedApi() as api,
        running(api, period_seconds=PERIOD_SECONDS, api_requests_per_minute=8) as engine,
    ):
        engine.gate.set_share(0.25)
        async with asyncio.TaskGroup() as group:
            for recording in each:
                group.create_task(engine.transcribe(recording, Wish()))
    assert most_in_a_window(api.calls) <= 2


async def test_a_process_without_partitions_sends_nothing(tmp_path: Path) -> None:
    async with ScriptedApi() as api, running(api) as engine:
        engine.gate.set_share(0.0)
        wish = Wish(deadline=time.monotonic() + 0.2)
        with pytest.raises(EventError):
            await engine.transcribe(spooled(tmp_path, noise(0.3)), wish)
    assert api.calls == []


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
