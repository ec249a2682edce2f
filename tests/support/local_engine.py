"""What the tests of the local engine share."""

import asyncio
from pathlib import Path

from consumer.core.hearing import Samples, to_pcm
from consumer.core.model import Heard, Recording, Wish
from consumer.engines.local import LocalEngine
from consumer.settings import Settings
from tests.support.tiny_ctc import babble


def tiny_settings(model: Path) -> Settings:
    """A tiny CTC model on one thread; chunks of 5 s; an engine second costs a tenth of a cent."""
    return Settings(
        engine="ctc",
        model=str(model),
        devices=["cpu"],
        compute_type="float32",  # its batches hold several chunks
        engine_threads=1,
        chunk_seconds=5.0,
        chunk_overlap_seconds=1.0,
        batch_wait_ms=100,
        local_usd_per_hour=3.6,
        engine_timeout_seconds=60.0,
    )


def recording(folder: Path, name: str, samples: Samples) -> Recording:
    path = folder / f"{name}.pcm"
    path.write_bytes(to_pcm(samples).tobytes())
    return Recording(digest=name, pcm_path=path, samples=samples.size)


def marked(seconds: float, seed: int, mark: int) -> Samples:
    """Something to hear that begins with one of fragile_ctc's marks."""
    samples = babble(seconds, seed)
    samples[0] = mark / 32768
    return samples


async def hear_all(engine: LocalEngine, recordings: list[Recording]) -> list[Heard | BaseException]:
    return await asyncio.gather(*(engine.transcribe(one, Wish()) for one in recordings), return_exceptions=True)


def text(outcome: Heard | BaseException) -> str:
    assert isinstance(outcome, Heard), outcome
    return outcome.recognised.text
