"""A decoded recording as uploads for an API: cut in pauses, compressed. Blocking: call it in a thread."""

import io
from dataclasses import dataclass

import numpy as np
import soundfile as sf

from consumer.core.hearing import PCM_TYPE, Pcm, Samples, to_samples
from consumer.core.model import SAMPLE_RATE, Recording
from consumer.core.pauses import find_pauses, frame_levels
from consumer.core.prices import ApiModel
from consumer.errors import RecordingError
from schemas.codes import Reason

SHORTEST_UPLOAD_SAMPLES = SAMPLE_RATE // 5
"""APIs refuse what is shorter than 0.1 s; such audio is padded with silence."""
_HOP = SAMPLE_RATE // 100
_QUIET_HOPS = 10
_SEARCH_SHARE = 0.2
"""A cut is sought in the last fifth of the longest part that is allowed."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A format that the API takes."""

    filename: str
    media_type: str
    container: str
    codec: str
    """As libsndfile names the two."""
    bytes_per_second: float
    """The most that a second of 16 kHz mono takes, whatever it sounds like."""

    @property
    def suffix(self) -> str:
        """By which an API knows the format."""
        return self.filename.rpartition(".")[2]


UPLOADS = {
    # noise does not compress; of Opus, twice the most that loud noise has taken
    "flac": Upload("audio.flac", "audio/flac", "FLAC", "PCM_16", SAMPLE_RATE * 2 * 1.02),
    "opus": Upload("audio.ogg", "audio/ogg", "OGG", "OPUS", 8_000.0),
}
"""What ``api_upload_format`` may be."""


def refused_format(model: ApiModel, name: str) -> str | None:
    """Why the model takes no uploads in this format of ``UPLOADS``, and what to do; None if it does."""
    suffix = UPLOADS[name].suffix
    if model.formats is None or suffix in model.formats:
        return None
    others = [other for other, upload in UPLOADS.items() if upload.suffix in model.formats]
    advice = f"set it to {' or '.join(others)}" if others else "set api_model to one that takes flac or opus"
    taken = ", ".join(sorted(model.formats))
    return f"api_upload_format {name}: {model.name} takes no {suffix} files ({taken}); {advice}"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the recording, in samples."""

    start: int
    stop: int

    @property
    def start_seconds(self) -> float:
        return self.start / SAMPLE_RATE

    @property
    def audio_seconds(self) -> float:
        return (self.stop - self.start) / SAMPLE_RATE

    @property
    def sent_seconds(self) -> float:
        """What the API gets, and so counts and bills: a blip is padded."""
        return max(self.stop - self.start, SHORTEST_UPLOAD_SAMPLES) / SAMPLE_RATE


def plan_parts(recording: Recording, model: ApiModel, upload: Upload = UPLOADS["flac"]) -> list[Part]:
    """Cut a recording into parts within the model's seconds and, whatever the audio is, its bytes.

    Parts do not overlap. A cut falls into the longest pause of the last fifth of what is allowed; where no pause is,
    into its quietest 100 ms, which may be within a word.
    """
    longest_seconds = model.max_audio_bytes / upload.bytes_per_second
    if model.max_seconds is not None:
        longest_seconds = min(longest_seconds, model.max_seconds)
    longest = int(longest_seconds * SAMPLE_RATE)
    samples = _open(recording)
    parts, start = [], 0
    while recording.samples - start > longest:
        low = start + int(longest * (1 - _SEARCH_SHARE))
        cut = low + _best_cut(samples[low : start + longest])
        parts.append(Part(start, cut))
        start = cut
    return [*parts, Part(start, recording.samples)]


def encode_part(recording: Recording, part: Part, upload: Upload = UPLOADS["flac"]) -> bytes:
    """The part compressed, 16 kHz mono."""
    samples = _open(recording)[part.start : part.stop]
    if len(samples) < SHORTEST_UPLOAD_SAMPLES:
        samples = np.pad(samples, (0, SHORTEST_UPLOAD_SAMPLES - len(samples)))
    body = io.BytesIO()
    sf.write(body, samples, SAMPLE_RATE, format=upload.container, subtype=upload.codec)
    return body.getvalue()


def _best_cut(samples: Pcm | Samples) -> int:
    """An index in the middle of the longest pause, or of the quietest 100 ms if there is none."""
    pauses = find_pauses(frame_levels(samples))
    return max(pauses, key=lambda pause: pause.seconds).middle if pauses else quietest(samples)


def quietest(samples: Pcm | Samples) -> int:
    """The middle of the quietest 100 ms, as an index."""
    hops = len(samples) // _HOP
    if hops <= _QUIET_HOPS:
        return len(samples) // 2
    sound = to_samples(samples[: hops * _HOP]).astype(np.float64)
    energy = np.square(sound).reshape(hops, _HOP).sum(axis=1)
    windows = np.convolve(energy, np.ones(_QUIET_HOPS), mode="valid")
    return int(np.argmin(windows)) * _HOP + _QUIET_HOPS * _HOP // 2


def _open(recording: Recording) -> Pcm:
    if recording.samples == 0:
        raise RecordingError(Reason.EMPTY, "the recording holds no audio; publish one that does")
    return np.memmap(recording.pcm_path, dtype=PCM_TYPE, mode="r", shape=(recording.samples,))
