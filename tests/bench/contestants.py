"""Everything that is measured beside the service: each in a fresh process that hears clips and says when.

Not run by hand: ``tests.bench.engines`` starts ``python -m tests.bench.contestants SPEC.json OUT.json``. Loading and
two clips to warm up come before the clock starts.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.bench.clips import Clip, read_clips
from tests.bench.processes import cpu_seconds

WARM_UP_CLIPS = 2
WINDOW_SECONDS = 30.0
PIPELINE_BATCHES = (1, 4, 8, 16)
SEARCH_CLIPS = 24
BATCHED_CHUNKS = 8
SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Spec:
    """What a contestant is given."""

    kind: str
    engine: str
    """``ctc``, ``whisper`` or ``ctranslate2``: whose model it is."""
    model: str
    clips: str
    device: str
    threads: int
    compute_type: str
    language: str
    settings: dict[str, str] = field(default_factory=dict)
    """The service's further settings, for its own engine."""
    paced_at: list[float] = field(default_factory=list)
    """Moments, in seconds, at which the first clips come one by one after the rest; none: no such part."""


@dataclass(slots=True)
class Found:
    """What was measured."""

    seconds: float
    audio_seconds: float
    cpu_seconds: float
    texts: dict[str, str]
    latencies_seconds: list[float] = field(default_factory=list)
    """Of the clips that came one by one."""
    peak_rss_bytes: int = 0
    note: str = ""


class Hears(Protocol):
    """A contestant, loaded."""

    at_once: int
    """Clips that it is best given together."""
    note: str

    def hear(self, clips: list[Clip]) -> list[str]: ...


def measure(hears: Hears, clips: list[Clip], paced_at: list[float]) -> Found:
    """Hear all clips as quickly as can be; then, of the same clips, as many as there are moments, one by one."""
    hears.hear(clips[:WARM_UP_CLIPS])
    began, used = time.monotonic(), cpu_seconds(os.getpid())
    texts: dict[str, str] = {}
    for first in range(0, len(clips), hears.at_once):
        group = clips[first : first + hears.at_once]
        texts |= zip((clip.name for clip in group), hears.hear(group), strict=True)
    found = Found(
        seconds=time.monotonic() - began,
        audio_seconds=sum(clip.seconds for clip in clips),
        cpu_seconds=cpu_seconds(os.getpid()) - used,
        texts=texts,
        note=hears.note,
    )
    found.latencies_seconds = paced(hears, clips, paced_at)
    return found


def paced(
    hears: Hears,
    clips: list[Clip],
    at: list[float],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """Latency of each clip when they come at their moments: whoever is busy finds those that came meanwhile."""
    began, heard = clock(), 0
    latencies: list[float] = []
    while heard < len(at):
        sleep(max(0.0, began + at[heard] - clock()))
        passed = clock() - began
        come = max(1, sum(moment <= passed for moment in at[heard : heard + hears.at_once]))
        hears.hear(clips[heard : heard + come])
        done = clock() - began
        latencies += [done - moment for moment in at[heard : heard + come]]
        heard += come
    return latencies


def load(spec: Spec, clips: list[Clip]) -> Hears:
    """The contestant of a spec."""
    from tests.bench import alone, peers

    kinds: dict[str, Callable[[Spec, list[Clip]], Hears]] = {
        "alone": alone.EngineAlone,
        "one by one": peers.one_by_one,
        "pipeline": peers.Pipeline,
        "faster-whisper": peers.FasterWhisper,
        "faster-whisper batched": peers.FasterWhisperBatched,
    }
    return kinds[spec.kind](spec, clips)


def main() -> None:
    warnings.simplefilter("ignore")  # the peers' own advice on how they are used
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    clips = read_clips(Path(spec.clips))
    found = measure(load(spec, clips), clips, spec.paced_at)
    Path(sys.argv[2]).write_text(json.dumps(asdict(found)))


def torch_on(spec: Spec) -> Any:
    """torch with the spec's threads."""
    import torch

    torch.set_num_threads(spec.threads)
    return torch


if __name__ == "__main__":
    main()
