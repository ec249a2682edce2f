"""What passes between the parent and an engine child: plain dicts for the header, raw arrays behind it.

Both directions of each value stand side by side. Audio never travels: a chunk is a place in a file of samples.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from consumer.core.hearing import PCM_TYPE, HeardChunk, HeardWord, ModelInfo, Pcm, Stretches, without
from consumer.core.model import SAMPLE_RATE
from consumer.errors import ReasonedError, RecordingError, TransientError
from schemas.codes import Reason
from schemas.models import EngineRef

CONFIDENCES = np.dtype("<f4")
IDS = np.dtype("<i4")


@dataclass(frozen=True, slots=True)
class ChunkAsk:
    """A chunk as it goes to the child: samples ``start`` to ``stop`` of a raw file, and what is wanted of them."""

    pcm_path: Path
    start: int
    stop: int
    language: str | None = None
    words: bool = False
    left_out: Stretches = ()
    """Silence within that the chunk does not hold, in samples of the file."""

    @property
    def audio_seconds(self) -> float:
        return sum(stop - start for start, stop in without(self.start, self.stop, self.left_out)) / SAMPLE_RATE

    def to_wire(self) -> dict[str, Any]:
        return {**asdict(self), "pcm_path": str(self.pcm_path.absolute())}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "ChunkAsk":
        left_out = tuple((start, stop) for start, stop in data["left_out"])
        return cls(**{**data, "pcm_path": Path(data["pcm_path"]), "left_out": left_out})

    def read(self) -> Pcm:
        """The samples. Raises TransientError where the file is gone or too short: then nobody waits for it any more."""
        try:
            with self.pcm_path.open("rb") as file:
                parts = [_part(file, start, stop) for start, stop in without(self.start, self.stop, self.left_out)]
        except OSError as error:
            raise TransientError(Reason.ENGINE_FAILED, f"the decoded samples cannot be read: {error}") from error
        samples = np.concatenate([np.empty(0, PCM_TYPE), *parts])
        if samples.size != round(self.audio_seconds * SAMPLE_RATE):
            raise TransientError(Reason.ENGINE_FAILED, "the file of decoded samples was cut short; decode it again")
        return samples


def _part(file: BinaryIO, start: int, stop: int) -> Pcm:
    file.seek(start * PCM_TYPE.itemsize)
    return np.fromfile(file, PCM_TYPE, stop - start)


def info_to_wire(info: ModelInfo) -> dict[str, Any]:
    return {**asdict(info), "ref": info.ref.model_dump()}


def info_from_wire(data: dict[str, Any]) -> ModelInfo:
    return ModelInfo(
        ref=EngineRef.model_validate(data["ref"]),
        languages=None if data["languages"] is None else tuple(data["languages"]),
        vocabulary=tuple(data["vocabulary"]),
        blank_id=data["blank_id"],
        word_delimiter=data["word_delimiter"],
        max_batch_chunks=data["max_batch_chunks"],
    )


Answer = HeardChunk | ReasonedError
"""What was heard in one chunk, or why that chunk alone has no answer."""


def answers_to_wire(answers: list[Answer]) -> tuple[list[dict[str, Any]], bytes]:
    """Headers of the answers, and their frames one after the other: all ids of a chunk, then its confidences."""
    headers: list[dict[str, Any]] = []
    arrays: list[bytes] = []
    for answer in answers:
        if isinstance(answer, ReasonedError):
            kind = "recording" if isinstance(answer, RecordingError) else "transient"
            headers.append({"error": kind, "reason": answer.reason, "detail": answer.detail})
            continue
        fields = {name: getattr(answer, name) for name in _PLAIN_FIELDS}
        words = None if answer.words is None else [asdict(word) for word in answer.words]
        headers.append({**fields, "words": words, "frames": int(answer.frame_ids.size)})
        arrays += [answer.frame_ids.astype(IDS).tobytes(), answer.frame_confidence.astype(CONFIDENCES).tobytes()]
    return headers, b"".join(arrays)


def answers_from_wire(headers: list[dict[str, Any]], payload: bytes) -> list[Answer]:
    answers: list[Answer] = []
    offset = 0
    for header in headers:
        if "error" in header:
            kind = RecordingError if header["error"] == "recording" else TransientError
            answers.append(kind(Reason(header["reason"]), header["detail"]))
            continue
        frames = header["frames"]
        ids = np.frombuffer(payload, IDS, frames, offset)
        confidence = np.frombuffer(payload, CONFIDENCES, frames, offset + ids.nbytes)
        offset += ids.nbytes + confidence.nbytes
        words = None if header["words"] is None else tuple(HeardWord(**word) for word in header["words"])
        plain = {name: header[name] for name in _PLAIN_FIELDS}
        plain["warnings"] = tuple(plain["warnings"])
        answers.append(HeardChunk(frame_ids=ids, frame_confidence=confidence, words=words, **plain))
    return answers


_PLAIN_FIELDS = ("text", "mean_logprob", "no_speech_probability", "tokens", "language", "warnings")
