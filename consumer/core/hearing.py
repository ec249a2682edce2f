"""What a local model is to the rest: the seam between the engine child, where torch lives, and the parent, where it
does not.

The child holds one ``Model`` and answers batches of chunks. The parent holds the model's *family*, pure logic that
cuts a recording into chunks and makes one text of what was heard in them.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from schemas.models import EngineRef, Recognised

Pcm = npt.NDArray[np.int16]
"""Mono, 16 kHz, full scale: what decoded recordings and chunks are; shape (samples,)."""
Samples = npt.NDArray[np.float32]
"""The same sound within -1 to 1: what models compute with; shape (samples,)."""

PCM_TYPE = np.dtype("<i2")
"""Decoded samples as they lie in a file."""
_FULL_SCALE = 32768.0
"""As libsndfile and FFmpeg scale: 16-bit sources come through to the bit."""


def to_samples(sound: Pcm | Samples) -> Samples:
    """Sound within -1 to 1; what is float already comes back as it is."""
    if sound.dtype.kind == "f":
        return np.asarray(sound, np.float32)
    return sound.astype(np.float32) * np.float32(1 / _FULL_SCALE)


def to_pcm(samples: Samples) -> Pcm:
    """Rounded to 16 bits; what is louder than full scale is clipped."""
    scaled = np.rint(samples * np.float32(_FULL_SCALE))
    pcm: Pcm = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(PCM_TYPE)
    return pcm


Stretches = tuple[tuple[int, int], ...]
"""Parts of a recording, each from a sample to before another; in order and apart."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model says of itself once it is loaded; all that its family needs to know."""

    ref: EngineRef
    languages: tuple[str, ...] | None = None
    """The model's own codes; one: a model of one language; None: unknown, any is tried."""
    vocabulary: tuple[str, ...] = ()
    """CTC: the symbol of each id."""
    blank_id: int = 0
    """CTC: the id that means *nothing here* (the pad token of transformers' tokenizers)."""
    word_delimiter: str = "|"
    max_batch_chunks: int | None = None
    """Chunks in one batch at most, where more would be slower or change the text; None: as the settings say."""


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word with its place in its *chunk*."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class HeardChunk:
    """What a model heard in one chunk. CTC fills ``frame_ids`` and ``frame_confidence``; Whisper the rest."""

    frame_ids: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """CTC: the best id of each frame; shape (frames,)."""
    frame_confidence: Samples = field(default_factory=lambda: np.empty(0, np.float32))
    """CTC: 1 minus normalised entropy of each frame; shape (frames,)."""
    text: str = ""
    words: tuple[HeardWord, ...] | None = None
    mean_logprob: float | None = None
    no_speech_probability: float | None = None
    tokens: int = 0
    """Whisper: how many tokens the mean is over."""
    language: str | None = None
    warnings: tuple[str, ...] = ()


class Model(Protocol):
    """A loaded model in the engine child. Synchronous: the child does one batch at a time for each slot."""

    @property
    def info(self) -> ModelInfo: ...

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        """Hear a batch; one answer for each chunk, in order, whatever its peers are (batching never changes text).

        ``words`` says for which chunks word times are wanted. Raises what it raises: the child reports the batch
        as failed, and the parent tries its members alone.
        """
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A Model that is quicker once it has heard each length of chunk."""

    def warm_up(self, lengths_seconds: list[float]) -> None:
        """Called once, before the child says that it is ready, with the longest chunk of each length bucket."""
        ...


@runtime_checkable
class Stages(Protocol):
    """A Model that gains by having the next batch laid ready while it is busy with this one."""

    def stage(self, chunks: list[Pcm]) -> Any:
        """Send a batch on its way to the device; called in another thread than the rest, at most two batches ahead."""
        ...

    def recognise_staged(self, staged: Any) -> list[HeardChunk]:
        """As ``recognise``, of a batch that is there already."""
        ...


@runtime_checkable
class SideBySide(Protocol):
    """A Model whose ``recognise`` may be called from several threads at once."""

    batches_at_once: int


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's place in its recording, in samples; neighbours overlap where one starts before the other stops."""

    start: int
    stop: int
    words: bool = False
    """Word times are needed, to merge at a seam or because they are published."""
    seam: int | None = None
    """CTC: from this sample of the recording on, this chunk counts and its predecessor no more; None: the first."""
    left_out: Stretches = ()
    """Silence inside the span that is no part of the chunk, in samples of the recording."""

    @property
    def kept(self) -> Stretches:
        """The parts of the recording that make the chunk, one after another."""
        return without(self.start, self.stop, self.left_out)


def without(start: int, stop: int, left_out: Stretches) -> Stretches:
    """What is left of ``start`` to ``stop``."""
    edges = [start, *(min(max(edge, start), stop) for stretch in left_out for edge in stretch), stop]
    return tuple((first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if first < last)


class Family(Protocol):
    """How one kind of model treats whole recordings; pure."""

    def plan(self, samples: Pcm | Samples, left_out: Stretches | None = None) -> list[Span]:
        """Cut a recording, perhaps a memory map; every span within the model's length, all samples covered but those
        of ``left_out``.

        ``left_out`` is what the silence gate lets no model hear; None: there is no gate. May be slow: not on the loop.
        """
        ...

    def merge(self, spans: list[Span], heard: list[HeardChunk], info: ModelInfo, audio_seconds: float) -> Recognised:
        """One text, its segments, words in absolute seconds, and a confidence."""
        ...
