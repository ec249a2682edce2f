"""What the demo publishes: real speech in several shapes, and what goes wrong in real life."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

from schemas.codes import Reason

SPEECH = Path(__file__).with_name("speech")
RATE = 16_000
_GAP_SECONDS = 0.5
_JOINED = (0, 2, 4, 1, 3, 0, 4, 2, 1, 3, 2, 4)
"""Sentences of the long recording, by place: more than a minute."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Take:
    """One record to publish, and how it must end."""

    name: str
    path: Path | None = None
    """Where the recording is, or is not."""
    raw: bytes | None = None
    """The record itself, where it is no event."""
    reference: str | None = None
    with_digest: bool = True
    reason: Reason | None = None
    """Why it must become a dead letter; None: it must be transcribed."""


def takes(folder: Path) -> list[Take]:
    """All of them; recordings that are made are made once and kept in ``folder``, so that their bytes stay."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = json.loads((SPEECH / "transcripts.json").read_text(encoding="utf-8"))
    files, texts = [SPEECH / entry["file"] for entry in listed], [entry["text"] for entry in listed]
    spoken = [_read(file) for file in files]
    gap = np.zeros(int(_GAP_SECONDS * RATE), np.float32)
    joined = np.concatenate([part for place in _JOINED for part in (spoken[place], gap)])

    again = _made(folder / "the same bytes.flac", lambda path: shutil.copyfile(files[0], path))
    wav = _made(folder / "sentence.wav", lambda path: soundfile.write(path, spoken[2], RATE, format="WAV"))
    mp3 = _made(folder / "sentence.mp3", lambda path: soundfile.write(path, spoken[3], RATE, format="MP3"))
    m4a = _made(folder / "sentence.m4a", lambda path: _write_m4a(path, spoken[4]))
    long = _made(folder / "chapter.flac", lambda path: soundfile.write(path, joined, RATE, format="FLAC"))
    corrupt = _made(folder / "damaged.flac", lambda path: path.write_bytes(_damaged(files[1])))
    return [
        *(Take(file.stem, file, reference=text) for file, text in zip(files, texts, strict=True)),
        Take("0870, elsewhere", again, reference=texts[0]),
        Take("no digest, WAV", wav, reference=texts[2], with_digest=False),
        Take("MP3", mp3, reference=texts[3]),
        Take("M4A (AAC)", m4a, reference=texts[4]),
        Take("over a minute", long, reference=" ".join(texts[place] for place in _JOINED)),
        Take("damaged FLAC", corrupt, reason=Reason.CORRUPT_AUDIO),
        Take("missing file", folder / "never-recorded.wav", with_digest=False, reason=Reason.NOT_FOUND),
        Take("not JSON", raw=b"dear transcription service, please find attached", reason=Reason.INVALID_JSON),
    ]


def _read(path: Path) -> Samples:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise ValueError(f"{path} has {rate} Hz; the bundled recordings have {RATE}")
    return np.asarray(samples, np.float32)


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    if not path.exists():
        part = path.with_suffix(f"{path.suffix}.part")
        make(part)
        part.rename(path)  # whole or not at all
    return path


def _damaged(path: Path) -> bytes:
    """A recording whose header is whole and whose second half is noise, as a broken disk leaves it."""
    data = path.read_bytes()
    kept = len(data) // 2
    return data[:kept] + np.random.default_rng(0).bytes(len(data) - kept)


def _write_m4a(path: Path, samples: Samples) -> None:
    """AAC in MP4, as telephones record it."""
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=RATE, layout="mono")
        frames = av.AudioFifo()
        whole = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
        frames.write(whole)
        while (frame := frames.read(stream.frame_size or 1024, partial=True)) is not None:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
