"""An API at its worst beside a local engine that keeps dying: nothing is lost, no limit is broken, the books agree.

The whole service in a storm of full size: ``python -m tests.bench.storm``.
"""

import asyncio
import zlib
from pathlib import Path

import pytest

from consumer.core.model import Heard, Recording, Wish
from consumer.engines.hybrid import HybridEngine
from consumer.engines.openai_api import OpenAIEngine
from schemas.codes import Route
from tests.engines.api_bench import KEY, no_sleep, noise, settings, spooled
from tests.engines.test_hybrid import DEAD, Local
from tests.support.scripted_api import ScriptedApi
from tests.support.storm import Storm

EVENTS, AT_ONCE = 120, 6
BILLING_FAILS = range(60, 64)
"""Calls, by number, that find the account without credit."""


class Mortal(Local):
    """Dies over three recordings of four."""

    def dies(self, recording: Recording) -> Exception | None:
        return DEAD if zlib.crc32(recording.digest.encode()) % 4 else None


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    return [spooled(tmp_path, noise(0.2 + 0.01 * (seed % 7), seed)) for seed in range(EVENTS)]


async def test_in_a_storm_every_event_is_heard_within_the_limits_and_the_books_agree(
    recordings: list[Recording],
) -> None:
    values = {
        "api_concurrency": AT_ONCE,
        "api_timeout_seconds": 0.5,
        "api_attempts": 3,
        "api_requests_per_minute": 100_000,
        "breaker_failures": 4,
        "breaker_reset_seconds": 0.05,
    }
    local = Mortal()
    async with ScriptedApi() as api:
        storm = Storm(api, billing_fails=BILLING_FAILS, model="gpt-transcribe", retry_after_ms="5")
        fallback = OpenAIEngine(settings(**values), base_url=api.base_url, api_key=KEY, sleep=no_sleep)
        engine = HybridEngine(local, fallback, settings(**values))
        await engine.start()
        local.fault = local.dies
        results: list[tuple[Heard, Route]] = await asyncio.gather(
            *(engine.transcribe(recording, Wish()) for recording in recordings)
        )
        api.release()
        await engine.stop()
    assert len(results) == EVENTS
    by_api = [heard for heard, _ in results if heard.recognised.engine.name == "openai"]
    assert by_api, "some were heard by the API"
    assert all(heard.recognised.text.startswith("heard ") for heard in by_api)
    assert api.open_peak <= AT_ONCE
    ours = [attempt for heard, _ in results for attempt in heard.attempts if attempt.engine == "openai"]
    assert len(ours) == len(api.calls)
    assert sum(attempt.cost_usd for attempt in ours) == pytest.approx(float(storm.billed_usd), abs=1e-9)
