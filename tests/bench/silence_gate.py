"""What the silence gate saves and costs: the same recordings through Whisper tiny.en (int8) with the gate and without.

    python -m tests.bench.silence_gate

Sentences with silences between them, as on a telephone, and the same sentences without; three alternating runs of
each, of which the median counts. The gate's cost is the processor time of its child and of sorting by energy.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from consumer.core.hearing import Samples
from consumer.core.model import SAMPLE_RATE, Wish
from consumer.core.pauses import frame_levels
from consumer.core.silence import by_energy
from consumer.engines.local import LocalEngine
from consumer.settings import Settings
from tests.support.local_engine import recording
from tests.support.recordings import joined, recordings, word_errors
from tests.support.sounds import sound
from tests.support.whisper_weights import ct2_tiny_en

RUNS = 3
GAPS_SECONDS = (2.5, 6.0, 12.0, 20.0)


def with_silences(count: int) -> tuple[Samples, str]:
    """Sentences with faint noise of 2.5 to 20 s after each."""
    parts: list[Samples] = []
    texts: list[str] = []
    for index in range(count):
        spoken = recordings()[index % 5]
        gap = int(GAPS_SECONDS[index % len(GAPS_SECONDS)] * SAMPLE_RATE)
        parts += [spoken.samples, np.resize(sound("faint noise"), gap)]
        texts.append(spoken.text)
    return np.concatenate(parts), " ".join(texts)


async def _timed(engine: LocalEngine, folder: Path, samples: Samples) -> tuple[float, str]:
    began = time.perf_counter()
    heard = await engine.transcribe(recording(folder, "bench", samples), Wish())
    return time.perf_counter() - began, heard.recognised.text


def _child_seconds(engine: LocalEngine) -> float:
    pids = engine._gate.child_pids if engine._gate is not None else []
    # the 14th and 15th field, of which the second may hold spaces
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


async def _measure(folder: Path, samples: Samples, text: str, engines: dict[str, LocalEngine]) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    errors: dict[str, int] = {}
    before = _child_seconds(engines["gate"])
    for _ in range(RUNS):
        for name, engine in engines.items():
            took, said = await _timed(engine, folder, samples)
            seconds[name].append(took)
            errors[name], words = word_errors([text], [said])
    listening = (_child_seconds(engines["gate"]) - before) / RUNS
    began = time.process_time()
    doubtful = sum(stop - start for start, stop in by_energy(frame_levels(samples)).doubtful)
    return {
        "audio_seconds": round(len(samples) / SAMPLE_RATE, 1),
        "seconds": {name: round(statistics.median(taken), 2) for name, taken in seconds.items()},
        "errors": errors,
        "words": words,
        "doubtful_share": round(doubtful / len(samples), 3),
        "listening_cpu_seconds": round(listening, 2),
        "energy_cpu_seconds": round(time.process_time() - began, 3),
    }


async def main() -> None:
    """Print a JSON line for each kind of recording."""
    engines = {
        name: LocalEngine(
            Settings(engine="ctranslate2", model=str(ct2_tiny_en()), devices=["cpu"], silence_gate=wanted)
        )
        for name, wanted in (("gate", "on"), ("no_gate", "off"))
    }
    speech = joined(12, gap_seconds=0.3)
    kinds = {"with silences": with_silences(12), "speech alone": (speech.samples, speech.text)}
    try:
        for engine in engines.values():
            await engine.start()
        with tempfile.TemporaryDirectory() as folder:
            for kind, (samples, text) in kinds.items():
                print(json.dumps({"kind": kind, **await _measure(Path(folder), samples, text, engines)}))
    finally:
        for engine in engines.values():
            await engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
