"""Recordings for tests: the repository's speech, and the same in any format."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]
"""Shape (frames,) or (frames, channels), within -1 to 1."""

SPEECH = Path(__file__).parents[2] / "compose" / "speech"

_SOUNDFILE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".aiff": ("AIFF", "PCM_16"),
}
_PYAV = {".m4a": "aac", ".mp4": "aac", ".aac": "aac", ".webm": "libopus"}


def speech(name: str = "austen-0870") -> Samples:
    """One of the repository's sentences, 16 kHz mono."""
    samples, rate = soundfile.read(SPEECH / f"{name}.flac", dtype="float32")
    assert rate == 16_000
    return np.asarray(samples, np.float32)


def write_audio(path: Path, samples: Samples, rate: int, *, subtype: str | None = None) -> Path:
    """Write samples in the format of the path's suffix; ``subtype`` is libsndfile's (``PCM_24``, ``FLOAT`` ...)."""
    if path.suffix in _PYAV:
        _encode(path, samples, rate, _PYAV[path.suffix])
    else:
        container, usual = _SOUNDFILE[path.suffix]
        soundfile.write(path, samples, rate, format=container, subtype=subtype or usual)
    return path


def encode_m4a(path: Path, samples: Samples, rate: int) -> Path:
    """AAC in MP4, as telephones record it."""
    _encode(path, samples, rate, "aac")
    return path


def _encode(path: Path, samples: Samples, rate: int, codec: str) -> None:
    planes = np.atleast_2d(samples.T)
    layout = "stereo" if len(planes) == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        fifo = av.AudioFifo()
        for start in range(0, planes.shape[1], 1 << 16):
            block = np.ascontiguousarray(planes[:, start : start + (1 << 16)], np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            fifo.write(frame)
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=stream.rate)
        while (frame := fifo.read(stream.frame_size or 1024, partial=True)) is not None:
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
        for ready in resampler.resample(None):
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
