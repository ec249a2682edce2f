"""The bundled recordings of read speech, as arrays and texts."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import soundfile
from whisper_normalizer.english import EnglishTextNormalizer

from consumer.core.hearing import Samples
from consumer.core.model import SAMPLE_RATE

FOLDER = Path(__file__).parents[2] / "compose" / "speech"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A recording and what is said in it."""

    name: str
    path: Path
    samples: Samples
    text: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@cache
def recordings() -> tuple[Spoken, ...]:
    """The five LibriVox sentences, in file order; 3 to 7 s each."""
    listed = json.loads((FOLDER / "transcripts.json").read_text())
    return tuple(_load(FOLDER / entry["file"], entry["text"]) for entry in listed)


def joined(count: int, *, gap_seconds: float = 0.5, seed: int = 0) -> Spoken:
    """``count`` recordings one after another in a seeded order, none twice in a row, with silence between."""
    random = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += [index for index in random.permutation(len(recordings())).tolist() if order[-1:] != [index]]
    parts = [recordings()[index] for index in order[:count]]
    gap = np.zeros(int(gap_seconds * SAMPLE_RATE), np.float32)
    samples = np.concatenate([piece for part in parts for piece in (part.samples, gap)])
    text = " ".join(part.text for part in parts)
    return Spoken(f"joined-{count}-{seed}", FOLDER, samples, text)


def word_errors(references: list[str], heard: list[str]) -> tuple[int, int]:
    """Errors and reference words, summed, after the field's usual normalisation of both sides."""
    normalise = EnglishTextNormalizer()
    counts = jiwer.process_words([normalise(text) for text in references], [normalise(text) for text in heard])
    return (
        counts.substitutions + counts.insertions + counts.deletions,
        counts.hits + counts.substitutions + counts.deletions,
    )


def word_error_rate(references: list[str], heard: list[str]) -> float:
    errors, words = word_errors(references, heard)
    return errors / words


def _load(path: Path, text: str) -> Spoken:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path} has {rate} Hz; the bundled recordings have {SAMPLE_RATE}")
    return Spoken(path.stem, path, samples, text)
