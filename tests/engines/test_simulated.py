"""The simulated engine's time, price and slots."""

import asyncio
from pathlib import Path

import pytest

from consumer.core.model import Recording, Wish
from consumer.engines.simulated import SimulatedEngine
from consumer.errors import TransientError
from consumer.settings import Settings


def recording(seconds: float, digest: str = "ab" * 32) -> Recording:
    return Recording(digest, Path("unused"), int(seconds * 16_000))


async def test_it_answers_the_digest_takes_its_time_and_names_its_price() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    settings = Settings(simulated_realtime_factor=50.0, simulated_usd_per_minute=0.006)
    engine = SimulatedEngine(settings, sleep=sleep)
    await engine.start()
    heard = await engine.transcribe(recording(100.0), Wish(language="en"))
    await engine.stop()
    assert heard.recognised.text == "simulated abababababababab"
    assert heard.recognised.language == "en"
    assert slept == [2.0]
    assert heard.cost_usd == heard.attempts[0].cost_usd == pytest.approx(0.01)
    assert heard.recognised.engine.name == "simulated"


async def test_no_more_run_at_once_than_there_are_slots() -> None:
    running, peak, gate = 0, 0, asyncio.Event()

    async def sleep(_seconds: float) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running == 3:
            gate.set()
        await gate.wait()
        running -= 1

    engine = SimulatedEngine(Settings(simulated_concurrency=3), sleep=sleep)
    await engine.start()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(engine.transcribe(recording(1.0, f"{number:064x}"), Wish()))
    await engine.stop()
    assert peak == 3


async def test_stopping_ends_what_runs_and_what_waits() -> None:
    engine = SimulatedEngine(Settings(simulated_concurrency=1, simulated_realtime_factor=0.001))
    await engine.start()
    tasks = [asyncio.create_task(engine.transcribe(recording(60.0), Wish())) for _ in range(2)]
    await asyncio.sleep(0)
    await engine.stop()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, TransientError) for result in results)
    with pytest.raises(TransientError):
        await engine.transcribe(recording(1.0), Wish())
