"""Minutes of more work than the API takes: nearly all of the limit is used, and never more, as the API counts."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from consumer.core.limits import counted_seconds
from consumer.engines.api_gate import ApiGate
from tests.support.virtual_time import run_in_virtual_time

MODULES = ("asyncio_throttle.throttler", "consumer.engines.api_gate")
MINUTE = 60.0
REQUESTS, AUDIO_SECONDS, AT_ONCE = 120, 1800.0, 12


def _clock() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Api:
    """Counts what arrives, on its own side of a way that takes a moment."""

    arrived: list[tuple[float, float]] = field(default_factory=list)
    open_now: int = 0
    open_peak: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    async def hear(self, audio_seconds: float) -> None:
        await asyncio.sleep(self.dice.uniform(0.0, 0.2))
        self.arrived.append((_clock(), audio_seconds))
        self.open_now += 1
        self.open_peak = max(self.open_peak, self.open_now)
        try:
            await asyncio.sleep(self.dice.uniform(0.2, 4.0))
        finally:
            self.open_now -= 1

    def fullest_minute(self) -> tuple[int, float]:
        """Most requests, and most audio, in any minute that begins with a request."""
        inside = [[audio for at, audio in self.arrived if start <= at < start + MINUTE] for start, _ in self.arrived]
        return max(map(len, inside)), max(map(sum, inside))

    def between(self, start: float, end: float) -> list[float]:
        return [audio for at, audio in self.arrived if start <= at < end]


class Process:
    """A gate that always has more to send than it may."""

    def __init__(self, api: Api, *, audio_seconds: float) -> None:
        self.gate = ApiGate(
            requests_per_minute=REQUESTS, audio_seconds_per_minute=AUDIO_SECONDS, concurrency=AT_ONCE, clock=_clock
        )
        self._api = api
        self._audio_seconds = audio_seconds
        self._tasks = [asyncio.create_task(self.gate.run()), *(asyncio.create_task(self._work()) for _ in range(30))]

    async def _work(self) -> None:
        while True:
            audio_seconds = self._api.dice.uniform(0.5, 1.5) * self._audio_seconds
            async with self.gate.turn(audio_seconds) as permit:
                await asyncio.sleep(self._api.dice.uniform(0.0, 0.3))  # it is encoded
                permit.sending()
                await self._api.hear(audio_seconds)

    async def kill(self) -> None:
        """At once; what it has sent has been sent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _one_process(audio_seconds: float) -> Api:
    api = Api()
    process = Process(api, audio_seconds=audio_seconds)
    await asyncio.sleep(10 * MINUTE)
    await process.kill()
    return api


@pytest.mark.parametrize("audio_seconds", [2.0, 40.0])
def test_a_saturated_limit_is_used_to_94_percent_and_never_exceeded(
    audio_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short recordings meet the limit of requests, long ones that of audio."""
    api = run_in_virtual_time(_one_process(audio_seconds), monkeypatch, *MODULES)
    requests, audio = api.fullest_minute()
    assert requests <= REQUESTS
    assert audio <= AUDIO_SECONDS
    steady = api.between(2 * MINUTE, 10 * MINUTE)
    used = max(len(steady) / (8 * REQUESTS), sum(steady) / (8 * AUDIO_SECONDS))
    assert 0.94 <= used <= 1.0
    assert api.open_peak <= AT_ONCE


async def _two_and_a_kill() -> Api:
    api = Api()
    first, second = (Process(api, audio_seconds=2.0) for _ in range(2))
    for process in (first, second):
        process.gate.set_share(0.5)
        process.gate.add_new_share(0.5)
    await asyncio.sleep(5.3 * MINUTE)
    await first.kill()
    third = Process(api, audio_seconds=2.0)  # the same moment: it has its partitions at once
    third.gate.set_share(0.5)
    await asyncio.sleep(3 * MINUTE)
    await third.kill()
    second.gate.set_share(1.0)
    await asyncio.sleep(5 * MINUTE)
    await second.kill()
    return api


def test_two_processes_share_it_and_a_killed_ones_part_is_not_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    api = run_in_virtual_time(_two_and_a_kill(), monkeypatch, *MODULES)
    requests, audio = api.fullest_minute()
    assert requests <= REQUESTS
    assert audio <= AUDIO_SECONDS
    assert api.open_peak <= AT_ONCE
    for start, end in ((1, 5), (11, 13)):
        assert len(api.between(start * MINUTE, end * MINUTE)) >= 0.94 * (end - start) * REQUESTS


async def _granted(gate: ApiGate, count: int) -> list[float]:
    """When each of so many requests, all wanted now, may leave; each takes no time."""
    moments: list[float] = []

    async def ask() -> None:
        async with gate.turn(1.0) as permit:
            permit.sending()
            moments.append(_clock())

    await asyncio.gather(*(ask() for _ in range(count)))
    return moments


async def _a_share_that_grows() -> tuple[list[float], list[float]]:
    limits = {"requests_per_minute": 10, "audio_seconds_per_minute": 1e6, "concurrency": 100}
    joins, stays = (ApiGate(**limits, clock=_clock) for _ in range(2))  # type: ignore[arg-type]
    running = [asyncio.create_task(gate.run()) for gate in (joins, stays)]
    joins.set_share(0.5)
    stays.set_share(0.5)
    stays.add_new_share(0.5)
    began = _clock()
    await asyncio.sleep(40.0)
    waiting = asyncio.gather(_granted(joins, 1), _granted(stays, 20))
    await asyncio.sleep(10.0)
    stays.set_share(1.0)
    found = await waiting
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return [at - began for at in found[0]], [at - began for at in found[1]]


def test_a_share_that_grew_is_used_as_soon_as_it_counts_whoever_waits_already(monkeypatch: pytest.MonkeyPatch) -> None:
    joins, stays = run_in_virtual_time(_a_share_that_grows(), monkeypatch, *MODULES)
    period = counted_seconds(MINUTE)
    assert joins == pytest.approx([period], abs=0.1), "what was asked for later does not wait for longer"
    in_steps = [40.0] * 5 + [40.0 + period] * 5 + [50.0 + period] * 5 + [40.0 + 2 * period] * 5
    assert stays == pytest.approx(in_steps, abs=1.0)
