"""What the tests of the API engine share: recordings on disk, settings, a running engine."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from consumer.core.hearing import Samples, to_pcm
from consumer.core.model import SAMPLE_RATE, Recording
from consumer.engines.openai_api import OpenAIEngine
from consumer.settings import Settings
from tests.support.scripted_api import ScriptedApi

KEY = "sk-made-up-0123456789-do-not-print"


def spooled(folder: Path, samples: Samples) -> Recording:
    """The samples as a decoded recording in a file."""
    raw = to_pcm(samples).tobytes()
    digest = hashlib.sha256(raw).hexdigest()
    path = folder / f"{digest}.pcm"
    path.write_bytes(raw)
    return Recording(digest, path, len(samples))


def noise(seconds: float, seed: int = 0) -> Samples:
    """Seeded noise at speech level."""
    count = int(seconds * SAMPLE_RATE)
    return (np.random.default_rng(seed).standard_normal(count) * 0.1).clip(-0.9, 0.9).astype(np.float32)


def settings(**changes: Any) -> Settings:
    """Quick to retry, slow to open."""
    return Settings(**{"api_timeout_seconds": 20.0, "breaker_failures": 50, **changes})


async def no_sleep(_seconds: float) -> None:
    """Back-off without the wait."""


@asynccontextmanager
async def running(api: ScriptedApi, *, period_seconds: float = 60.0, **changes: Any) -> AsyncIterator[OpenAIEngine]:
    """The engine, talking to the scripted server through the real SDK."""
    engine = OpenAIEngine(
        settings(**changes), base_url=api.base_url, api_key=KEY, period_seconds=period_seconds, sleep=no_sleep
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
