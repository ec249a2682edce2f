"""Recordings to measure with: short clips made of the bundled sentences, always the same ones, or anybody's folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from consumer.core.hearing import Samples
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import find_pauses, frame_levels
from tests.bench.mix import lengths
from tests.support.recordings import Spoken, recordings

SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 8.0
SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg"})
SPEEDS = (0.92, 1.1)
NOISE_DB = (20.0, 40.0)
"""How far the added noise lies under the speech."""
GAINS_DB = (-12.0, 0.0)
_GAP = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
_EDGE_SAMPLES = SAMPLE_RATE // 10


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording in a file, and what is said in it if that is known."""

    name: str
    path: Path
    seconds: float
    text: str | None


Said = tuple[Samples, str | None]


def read_clips(folder: Path) -> list[Clip]:
    """Every recording of a folder, by name, with the text of ``name.txt`` beside it. Raises ValueError for none."""
    found = [
        Clip(path.stem, path, float(soundfile.info(path).duration), _text_beside(path))
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise ValueError(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES))})")
    return found


def make_clips(folder: Path, count: int, mix: str = "short", seed: int = 1) -> list[Clip]:
    """Write ``count`` clips and read them back; the same ones for the same arguments, no two of them equal.

    ``short``: 2 to 8 s, as prompts on the telephone are. ``usual``: the log-normal lengths of ``mix``.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (samples, text) in enumerate(MIXES[mix](count, random)):
        path = folder / f"{mix}-{number:05}.wav"
        soundfile.write(path, _varied(samples, random), SAMPLE_RATE, subtype="PCM_16")
        if text is not None:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return read_clips(folder)


def _short(count: int, random: np.random.Generator) -> Iterator[Said]:
    """Whole sentences, two of them joined where they are short enough, and halves cut in a pause, in turns."""
    kinds: tuple[Callable[[np.random.Generator], Said], ...] = (_one, _two, _half)
    for number in range(count):
        yield kinds[number % len(kinds)](random)


def _usual(count: int, random: np.random.Generator) -> Iterator[Said]:
    """Sentences joined up to the wished length; what is shorter than any sentence is cut off one, without a text."""
    spoken = recordings()
    for wished in lengths(count, random):
        chosen: list[Spoken] = []
        while sum(one.seconds for one in chosen) < wished:
            chosen.append(spoken[random.integers(len(spoken))])
        if len(chosen) == 1:
            yield chosen[0].samples[: max(int(wished * SAMPLE_RATE), _EDGE_SAMPLES)], None
            continue
        over = sum(one.seconds for one in chosen) - wished
        yield _joined(chosen[:-1] if over > chosen[-1].seconds / 2 else chosen)


MIXES: dict[str, Callable[[int, np.random.Generator], Iterator[Said]]] = {"short": _short, "usual": _usual}


def _one(random: np.random.Generator) -> Said:
    chosen = recordings()[random.integers(len(recordings()))]
    return chosen.samples, chosen.text


def _two(random: np.random.Generator) -> Said:
    brief = [one for one in recordings() if one.seconds < LONGEST_SECONDS * SPEEDS[0] / 2]
    first, second = random.permutation(len(brief))[:2]
    return _joined([brief[first], brief[second]])


def _half(random: np.random.Generator) -> Said:
    """What is said before or behind the longest pause that leaves enough; nobody knows which words those are."""
    enough = int(SHORTEST_SECONDS * SPEEDS[1] * SAMPLE_RATE)
    long = [one.samples for one in recordings() if len(one.samples) > 2 * enough]
    samples = long[random.integers(len(long))]
    pauses = find_pauses(frame_levels(samples), 0.05)
    inside = [pause for pause in pauses if enough <= pause.middle <= len(samples) - enough]
    cut = max(inside, key=lambda pause: pause.seconds).middle if inside else len(samples) // 2
    return (samples[:cut] if random.integers(2) else samples[cut:]), None


def _joined(spoken: list[Spoken]) -> Said:
    parts = [piece for one in spoken for piece in (one.samples, _GAP)][:-1]
    return np.concatenate(parts), " ".join(one.text for one in spoken)


def _varied(samples: Samples, random: np.random.Generator) -> Samples:
    """Quicker or slower, fainter, with some noise, and a tenth of a second of it at both ends."""
    speed, under, gain = random.uniform(*SPEEDS), random.uniform(*NOISE_DB), random.uniform(*GAINS_DB)
    said = np.pad(soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE), _EDGE_SAMPLES)
    level = float(np.sqrt(np.mean(said**2)))
    noise = random.normal(0.0, level * 10 ** (-under / 20), len(said))
    varied: Samples = ((said + noise) * 10 ** (gain / 20)).clip(-1.0, 1.0).astype(np.float32)
    return varied


def _text_beside(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.is_file() else None
