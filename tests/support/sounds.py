"""Sounds without words, 20 s each, in which Whisper likes to hear some; the same ones every time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from consumer.core.hearing import Samples
from consumer.core.model import SAMPLE_RATE
from tests.support.recordings import recordings

SECONDS = 20
_TIME = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE

Wave = npt.NDArray[np.float64]


def _noise(level: float) -> Wave:
    return np.random.default_rng(7).normal(size=_TIME.size) * level


def _harmonics(hertz: float, count: int, time: Wave = _TIME) -> Wave:
    return np.asarray(sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, count + 1)))


def _melody() -> Wave:
    """Plucked notes of a quarter to three quarters of a second."""
    random = np.random.default_rng(1)
    notes: list[Wave] = []
    while sum(map(len, notes)) < _TIME.size:
        time = _TIME[: int(random.choice([0.25, 0.5, 0.75]) * SAMPLE_RATE)]
        pitch = 220 * 2 ** (random.integers(0, 24) / 12)
        notes.append(0.2 * _harmonics(pitch, 5, time) * np.exp(-3 * time) * np.minimum(1, time / 0.01))
    return np.concatenate(notes)[: _TIME.size]


def _beats() -> Wave:
    beat = np.random.default_rng(2).normal(size=SAMPLE_RATE // 2) * np.exp(-np.arange(SAMPLE_RATE // 2) / 600)
    return 0.3 * np.tile(beat, SECONDS * 2)


def _looped_syllable() -> Wave:
    """A quarter of a second cut out of speech, over and over."""
    syllable = recordings()[0].samples[int(0.3 * SAMPLE_RATE) : int(0.55 * SAMPLE_RATE)]
    return np.asarray(np.resize(syllable, _TIME.size), np.float64)


_MADE: dict[str, Callable[[], Wave]] = {
    "silence": lambda: np.zeros(_TIME.size),
    "white noise": lambda: _noise(0.1),
    "faint noise": lambda: _noise(0.003),
    "hum": lambda: 0.05 * _harmonics(50, 5) + _noise(0.001),
    "tone": lambda: 0.2 * np.sin(2 * np.pi * 440 * _TIME),
    "ringing": lambda: 0.2 * (np.sin(2 * np.pi * 440 * _TIME) + np.sin(2 * np.pi * 480 * _TIME)) * (_TIME % 6 < 2),
    "chords": lambda: 0.05 * (_harmonics(220, 3) + _harmonics(277, 3) + _harmonics(330, 3)),
    "melody": _melody,
    "beats": _beats,
    "pulsing noise": lambda: _noise(0.1) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * _TIME)),
    "looped syllable": _looped_syllable,
}
WORDLESS = tuple(_MADE)


def sound(name: str) -> Samples:
    return _MADE[name]().astype(np.float32)
