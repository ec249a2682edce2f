"""Where a recording is quiet: real pauses, and stretches that hold nothing to hear.

Levels are decibels relative to full scale, one for each frame of 10 ms. Pure numpy; a recording may be a memory map
and is read in blocks, so that hours of it take seconds and little memory.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consumer.core.hearing import Pcm, Samples, to_samples
from consumer.core.model import SAMPLE_RATE

FRAME_SAMPLES = SAMPLE_RATE // 100
"""10 ms."""
SILENCE_DB = -70.0
"""Below this even the loudest frame of a stretch is silence: 16-bit sound
has a noise of -98, and speech at -60 is still heard right."""
FAINTEST_DB = -100.0
"""The level of digital silence here, and of a signal that does not move: an idle A-law line, an offset."""
DEAD_DB = -88.0
"""Below this no microphone and no line is at work: at most the last bit moves."""
MINIMUM_PAUSE_SECONDS = 0.2

Levels = npt.NDArray[np.float32]

_BLOCK_FRAMES = 6000
_FLOOR_FRAMES = 3000
_FLOOR_DB = 10.0
_BELOW_SPEECH_DB = 15.0
_FLOOR_PERCENTILE = 5
_SPEECH_PERCENTILE = 90
_SMOOTH_FRAMES = 5
_LOUD_PERCENTILE = 95
_BELOW_LOUD_DB = 30.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A quiet stretch between two sounds, in samples."""

    start: int
    stop: int

    @property
    def middle(self) -> int:
        return (self.start + self.stop) // 2

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / SAMPLE_RATE


def frame_levels(samples: Pcm | Samples) -> Levels:
    """The level of each frame of 10 ms; the last one may be shorter. Shape (ceil(samples / 160),)."""
    frames = -(-len(samples) // FRAME_SAMPLES)
    levels = np.empty(frames, np.float32)
    for first in range(0, frames, _BLOCK_FRAMES):
        block = to_samples(samples[first * FRAME_SAMPLES : (first + _BLOCK_FRAMES) * FRAME_SAMPLES])
        whole, rest = divmod(len(block), FRAME_SAMPLES)
        framed = block[: whole * FRAME_SAMPLES].reshape(whole, FRAME_SAMPLES)
        levels[first : first + whole] = _decibels(np.einsum("fs,fs->f", framed, framed) / FRAME_SAMPLES)
        levels[first : first + whole][framed.max(axis=1) == framed.min(axis=1)] = FAINTEST_DB
        if rest:
            tail = block[whole * FRAME_SAMPLES :]
            levels[first + whole] = _decibels(np.atleast_1d(tail @ tail / rest))[0]
    return levels


def find_pauses(levels: Levels, minimum_seconds: float = MINIMUM_PAUSE_SECONDS) -> list[Pause]:
    """All pauses of at least ``minimum_seconds``, in order.

    Quiet is relative: near the noise floor of the surrounding minute, and clearly under the speech around it, so
    that neither a noisy line nor a faint speaker shifts what counts. Steady sound has no pauses.
    """
    if not len(levels):
        return []
    return [
        Pause(start * FRAME_SAMPLES, stop * FRAME_SAMPLES)
        for start, stop in runs(levels < _quiet_below(levels), minimum_seconds)
    ]


def runs(frames: npt.NDArray[np.bool_], minimum_seconds: float = 0.0) -> list[tuple[int, int]]:
    """Where frames are true for at least so long: the first one and the one after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], frames, [False])).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    long_enough = (stops - starts) * FRAME_SAMPLES >= minimum_seconds * SAMPLE_RATE
    return list(zip(starts[long_enough].tolist(), stops[long_enough].tolist(), strict=True))


def smoothed(levels: Levels) -> Levels:
    """Levels of 50 ms each, by their middle frame; the two frames at either edge are gone."""
    result: Levels = np.convolve(levels, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES, np.float32), "valid")
    return result


def sounding_seconds(levels: Levels) -> float:
    """How long a stretch is about as loud as its louder parts: the time in which something can have been said."""
    if not len(levels):
        return 0.0
    loud = max(SILENCE_DB, float(np.percentile(levels, _LOUD_PERCENTILE)) - _BELOW_LOUD_DB)
    return float(np.count_nonzero(levels >= loud)) * FRAME_SAMPLES / SAMPLE_RATE


def _decibels(power: npt.NDArray[np.float32]) -> Levels:
    result: Levels = (10 * np.log10(np.maximum(power, 10 ** (FAINTEST_DB / 10)))).astype(np.float32)
    return result


def _quiet_below(levels: Levels) -> Levels:
    """For each frame the level under which it is quiet, from the percentiles of its half minute and its neighbours."""
    blocks = max(1, round(len(levels) / _FLOOR_FRAMES))
    limits = np.empty(blocks, np.float32)
    bounds = np.linspace(0, len(levels), blocks + 1).astype(int)
    for index in range(blocks):
        around = levels[bounds[max(0, index - 1)] : bounds[min(blocks, index + 2)]]
        # digital silence between recordings says nothing of the floor in them
        sounding = around[around >= SILENCE_DB]
        if not len(sounding):
            limits[index] = SILENCE_DB
            continue
        floor, speech = np.percentile(sounding, (_FLOOR_PERCENTILE, _SPEECH_PERCENTILE))
        limits[index] = max(min(floor + _FLOOR_DB, speech - _BELOW_SPEECH_DB), SILENCE_DB)
    return np.repeat(limits, np.diff(bounds))
