"""The silence gate's shell: has a child listen where energy is unsure, and tells what no model need hear."""

import asyncio
import os
from collections.abc import Iterator
from itertools import cycle

from consumer.core.hearing import Pcm, Samples, Stretches
from consumer.core.model import SAMPLE_RATE, Recording
from consumer.core.pauses import frame_levels
from consumer.core.silence import ByEnergy, by_energy, left_out
from consumer.engines.wire import ChunkAsk
from consumer.settings import Settings
from consumer.workers.supervisor import Supervisor

WHISPER_ENGINES = ("whisper", "ctranslate2")
CHILD_MODULE = "consumer.workers.vad_child"
START_TIMEOUT_SECONDS = 120.0
CORES_FOR_EACH_CHILD = 4
"""A child hears some 300 seconds in one, and only what is doubtful: more of them than this would idle."""

_BLOCK_SAMPLES = 60 * SAMPLE_RATE
_REQUEST_SAMPLES = 600 * SAMPLE_RATE
"""So much in one request, two seconds of work: hours of music keep no short recording waiting for long."""


def has_gate(settings: Settings) -> bool:
    """Whether recordings pass the gate: by themselves those for Whisper, which makes up text where nobody speaks."""
    if settings.silence_gate == "auto":
        return settings.engine in WHISPER_ENGINES
    return settings.silence_gate == "on"


class SilenceGate:
    """Tells which stretches of recordings hold no speech; the same ones whenever it is asked."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._children = [
            Supervisor(CHILD_MODULE, {}, name=f"listener-{number}", start_timeout_seconds=START_TIMEOUT_SECONDS)
            for number in range(max(1, (os.cpu_count() or 1) // CORES_FOR_EACH_CHILD))
        ]
        self._turn = cycle(self._children)

    @property
    def child_pids(self) -> list[int]:
        """Processes of the children that are up."""
        return [child.pid for child in self._children if child.pid is not None]

    async def start(self) -> None:
        """Start the children. Raises ReasonedError if one cannot start; ``stop`` then ends the others."""
        await asyncio.gather(*(child.start() for child in self._children))

    async def stop(self) -> None:
        """End the children; what waits for them fails with TransientError."""
        await asyncio.gather(*(child.stop() for child in self._children))

    async def left_out(self, recording: Recording, samples: Pcm | Samples) -> Stretches:
        """What no model need hear of a recording: all of it if nobody speaks.

        ``samples`` are the recording's, perhaps a memory map. Raises TransientError where no child can be had.
        """
        energy = await asyncio.to_thread(_sorted_by_energy, samples)
        voices: list[tuple[int, int]] = []
        for asks in _requests(recording, energy.doubtful):
            request = {"chunks": [ask.to_wire() for ask in asks]}
            answer, _ = await next(self._turn).request(request, timeout_seconds=self._timeout_seconds)
            voices += [(start, stop) for heard in answer["voices"] for start, stop in heard]
        return left_out(energy, tuple(voices), len(samples))


def _sorted_by_energy(samples: Pcm | Samples) -> ByEnergy:
    return by_energy(frame_levels(samples))


def _requests(recording: Recording, doubtful: Stretches) -> Iterator[list[ChunkAsk]]:
    """The doubtful stretches in blocks of a minute, and these in requests of bounded length."""
    asks: list[ChunkAsk] = []
    held = 0
    for start, stop in doubtful:
        for first in range(start, stop, _BLOCK_SAMPLES):
            last = min(first + _BLOCK_SAMPLES, stop, recording.samples)
            asks.append(ChunkAsk(recording.pcm_path, first, last))
            held += last - first
            if held >= _REQUEST_SAMPLES:
                yield asks
                asks, held = [], 0
    if asks:
        yield asks
