"""Real processes that share one limit of the API: as the API counts, it is nearly all used and never exceeded."""

import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from consumer.core.limits import counted_seconds
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.support.kafka import Broker, Written
from tests.support.scenario import as_instance, event, make_clip, publish, settings_for, until
from tests.support.scripted_api import Call, ScriptedApi
from tests.support.service import ServiceProcess, serving

pytestmark = [pytest.mark.kafka, pytest.mark.patient]

PERIOD_SECONDS, REQUESTS = 6.0, 60
EVENTS = 700
STEADY_SECONDS = 2 * counted_seconds(PERIOD_SECONDS)
"""Whole periods as the service counts them: at its start each sends all that it may at once."""
LEAST_USED = 0.85
"""Counting on the safe side leaves 94 % of so short a period; half of it unused by one process would be seen."""
LATE_SECONDS = (counted_seconds(60.0) - 60.0) - (counted_seconds(PERIOD_SECONDS) - PERIOD_SECONDS)
"""How much later than in this short period a request may arrive in the real minute. A busy machine is not twelve times
quicker for the period being so much shorter: a request that was late by so much counts where it belongs."""


class Watch:
    """What the API has seen of each process; they are told apart by their keys."""

    def __init__(self, api: ScriptedApi) -> None:
        self._api = api

    async def until_called(self, key: str) -> float:
        """Wait for the first call of a process; when that was."""
        first: float = await until(lambda: next(iter(self._of(key)), None), f"{key} calls")
        return first

    async def until_past(self, moment: float) -> None:
        """Wait until a call comes after the moment."""
        await until(lambda: self._calls()[-1].at >= moment, "more calls")

    def used(self, start: float, end: float) -> float:
        """What part of the limit the calls of that time are."""
        count = sum(start <= call.at < end for call in self._calls())
        return count / (REQUESTS * (end - start) / PERIOD_SECONDS)

    def fullest(self, seconds: float) -> int:
        """Most calls in any stretch of so many seconds that begins with a call, on the API's own clock."""
        moments = sorted(call.at for call in self._calls())
        return max(sum(start <= at < start + seconds for at in moments) for start in moments)

    def last(self) -> float:
        return self._calls()[-1].at

    def _of(self, key: str) -> list[float]:
        return [call.at for call in self._calls() if call.authorization == f"Bearer {key}"]

    def _calls(self) -> list[Call]:
        return list(self._api.calls)


async def test_two_processes_share_a_limit_and_a_kill_between_them_exceeds_nothing(
    kafka: Broker, tmp_path: Path
) -> None:
    settings = settings_for(
        kafka.bootstrap_servers, tmp_path, engine="openai", api_requests_per_minute=REQUESTS, watch_metrics=False
    )
    await create(settings)
    clips = [make_clip(tmp_path, number) for number in range(EVENTS)]
    events = [event(f"e{n}", clip.uri, sha256=clip.digest) for n, clip in enumerate(clips)]
    async with ScriptedApi() as api, AsyncExitStack() as processes:
        watch = Watch(api)

        async def start(name: str, lanes: int) -> ServiceProcess:
            service = await processes.enter_async_context(_serving(as_instance(settings, name), api, name))
            await service.until_log("lane_open", lanes)
            return service

        await start("first", settings.partitions)
        killed = await start("second", settings.partitions // 2)
        await publish(
            settings,
            *(Written(value, clip.digest.encode()) for value, clip in zip(events, clips, strict=True)),
        )
        both_from = await watch.until_called("second")
        await watch.until_past(both_from + STEADY_SECONDS)
        killed_at = watch.last()
        await killed.kill()
        await start("third", settings.partitions // 2)
        again_from = await watch.until_called("third")
        await watch.until_past(again_from + STEADY_SECONDS)

        before = watch.used(both_from, both_from + STEADY_SECONDS)
        between = watch.used(killed_at, again_from)
        after = watch.used(again_from, again_from + STEADY_SECONDS)
        fullest, on_time = watch.fullest(PERIOD_SECONDS), watch.fullest(PERIOD_SECONDS - LATE_SECONDS)
    print(
        f"\nused of the limit: {before:.1%} by two processes; {between:.1%} for {again_from - killed_at:.1f} s after a "
        f"kill -9; {after:.1%} once a third has its share; fullest period {fullest} of {REQUESTS}, {on_time} "
        f"with {LATE_SECONDS:.2f} s of lateness taken off"
    )
    assert on_time <= REQUESTS
    assert min(before, after) >= LEAST_USED


def _serving(settings: Settings, api: ScriptedApi, key: str) -> AbstractAsyncContextManager[ServiceProcess]:
    return serving(
        settings,
        program=(sys.executable, "-m", "tests.support.quick_limits"),
        OPENAI_BASE_URL=api.base_url,
        OPENAI_API_KEY=key,
        QUICK_LIMITS_SECONDS=f"{PERIOD_SECONDS}",
    )
