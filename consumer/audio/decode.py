"""Any recording to 16 kHz mono int16, block by block, so that memory never depends on its length. Pure and blocking.

libsndfile reads what has one length and knows it (WAV, FLAC and kin); PyAV what it does not know or gives up on (AAC,
MP4, WebM), and MP3 and Ogg too: of those libsndfile reads only as much as the header claims or the first frames let it
guess, so that files joined end to end, or of a varying bit rate, would silently lose their rest. So too a WAV whose
recorder was cut off before it wrote the length: to libsndfile it is empty.
A recording is corrupt if more than a tenth of it is damaged, or missing against a length that it is sure of (FLAC, MP4,
WebM, the first and last time stamps of an Ogg); where there is none (WAV of a stream, MP3), what is there is all there
is.
librosa mixes down and resamples (``soxr_hq``). It wants the whole recording in memory, so one that does not fit there
comfortably goes block by block through librosa's own resampler, soxr, with the same result.
For the decode child alone: librosa's first resampling takes seconds, and its numba 200 MB.
"""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import librosa
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from consumer.core.hearing import to_pcm
from consumer.core.model import SAMPLE_RATE
from consumer.errors import RecordingError, TransientError
from schemas.codes import Reason

Block = npt.NDArray[np.float32]

WHOLE_SECONDS = 60
WHOLE_SAMPLES = WHOLE_SECONDS * 48_000 * 2
BLOCK_SAMPLES = 1 << 20
FRAMES_IN_BLOCK = 64
SLOWEST_HERTZ, FASTEST_HERTZ = 2_000, 768_000
MOST_DAMAGE = 0.1
NEVER_CLOSED_SECONDS = 0.1
"""What a recording without a length must hold at least, to be more than what is written behind sound."""
ONE_FRAME_BYTES = 1441
"""The largest frame of an MP3; as much may always be damaged, however short the recording."""
_GUESSED = ("MP3", "OGG")
"""Formats whose length libsndfile guesses, or takes for that of their first part."""
_UNKNOWN_FORMAT = 1
"""libsndfile's SF_ERR_UNRECOGNISED_FORMAT."""
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""What stands between MP3 files that were joined end to end."""
# Playlists and their like are left out: they would have the decoder open other files and addresses.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,mp3,flac,ogg,wav,w64,aiff,au,caf,asf,amr,ac3,eac3,mpegts,mpeg,avi"
)
_MARKS = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"OggS"), (0, b"fLaC"))


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What came out: ``samples`` at 16 kHz; rate, channels and codec are those of the source."""

    samples: int
    source_rate: int
    channels: int
    codec: str


def decode_file(path: Path, out_path: Path, *, max_seconds: float) -> DecodeResult:
    """Write the recording at ``path`` to ``out_path`` as raw little-endian int16, 16 kHz, mono.

    Raises RecordingError: ``unsupported_format``, ``corrupt_audio``, ``empty``, or ``too_long`` as soon as more than
    ``max_seconds`` have come out; TransientError(fetch_failed) if the spool is at fault.
    """
    try:
        result = _decoded(path, out_path, max_seconds)
    except OSError as error:  # the disk's fault, never the recording's
        raise TransientError(Reason.FETCH_FAILED, f"the spool cannot be used: {error.strerror}") from error
    if result.samples == 0:
        raise RecordingError(Reason.EMPTY, f"the recording is valid {result.codec} but holds no audio")
    return result


def warm() -> None:
    """Load both resamplers and whatever they load in turn, so that the first recording does not wait for it."""
    with Writer(Path(os.devnull), max_seconds=1.0) as writer:
        writer.whole(np.zeros((4410, 2), np.float32), 44_100)
        writer.feed(np.zeros((4410, 2), np.float32), 44_100)


class Writer:
    """Sound of any rate in, whole or in blocks, 16 kHz in a file out; stops at the limit."""

    def __init__(self, out_path: Path, max_seconds: float) -> None:
        self._file = out_path.open("wb")
        self._max_seconds = max_seconds
        self._rate = 0
        self._stream: soxr.ResampleStream | None = None
        self.samples = 0

    def whole(self, sound: Block, rate: int) -> None:
        """Take a whole recording of shape (frames, channels). Raises RecordingError(too_long) beyond the limit."""
        _demand_speech(rate)
        mono = _mono(sound)
        if len(mono):  # fix=False: librosa would round the length up where the stream rounds it
            mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq", fix=False)
        self._write(mono)

    def feed(self, block: Block, rate: int) -> None:
        """Take the next of many blocks of shape (frames, channels). Raises RecordingError(too_long) as ``whole``."""
        if rate != self._rate:
            self._drain()
            self._begin(rate)
        mono = _mono(block)
        self._write(mono if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(mono)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        with closing(self._file):
            if kind is None:
                self._drain()

    def _begin(self, rate: int) -> None:
        _demand_speech(rate)
        self._rate = rate
        self._stream = None
        if rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def _drain(self) -> None:
        if self._stream is not None:
            self._write(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
            self._stream = None

    def _write(self, mono: Block) -> None:
        self.samples += len(mono)
        if self.samples > self._max_seconds * SAMPLE_RATE:
            detail = f"the recording is longer than {self._max_seconds:g} s; cut it, or raise max_audio_seconds"
            raise RecordingError(Reason.TOO_LONG, detail)
        self._file.write(to_pcm(mono).data)


def _decoded(path: Path, out_path: Path, max_seconds: float) -> DecodeResult:
    known = True
    try:
        with soundfile.SoundFile(path) as source:
            if source.format not in _GUESSED:
                read = _with_libsndfile(source, out_path, max_seconds)
                return read if read.samples else _never_closed(path, out_path, max_seconds, read)
    except soundfile.LibsndfileError as error:
        known = error.code != _UNKNOWN_FORMAT
    return _with_pyav(path, out_path, max_seconds, known=known)


def _with_libsndfile(source: soundfile.SoundFile, out_path: Path, max_seconds: float) -> DecodeResult:
    with Writer(out_path, max_seconds) as writer:
        rate, channels, frames = source.samplerate, source.channels, source.frames
        # librosa for what fits in memory with room to spare, whatever the header claims; soxr's stream for the rest
        if frames <= WHOLE_SECONDS * rate and frames * channels <= WHOLE_SAMPLES:
            writer.whole(source.read(frames, dtype="float32", always_2d=True), rate)
        else:
            # bounded on both sides of the resampler
            most = max(1, min(BLOCK_SAMPLES // channels, BLOCK_SAMPLES * rate // SAMPLE_RATE))
            while len(block := source.read(most, dtype="float32", always_2d=True)):
                writer.feed(block, rate)
        codec = f"{source.format}/{source.subtype}".lower()
    return DecodeResult(writer.samples, rate, channels, codec)


def _never_closed(path: Path, out_path: Path, max_seconds: float, empty: DecodeResult) -> DecodeResult:
    """What lies behind a header that claims no sound, as of a recorder that was cut off; ``empty`` if that is none."""
    try:
        found = _with_pyav(path, out_path, max_seconds, known=True)
    except RecordingError as error:
        if error.reason is Reason.TOO_LONG:
            raise
        return empty
    # to FFmpeg the titles behind an empty recording are sound too
    return found if found.samples > NEVER_CLOSED_SECONDS * SAMPLE_RATE else empty


def _mono(sound: Block) -> Block:
    """The mean of the channels; what is not a number becomes silence. Shape (frames, channels) to (frames,)."""
    if not np.isfinite(sound).all():
        sound = np.nan_to_num(sound, nan=0.0, posinf=0.0, neginf=0.0)
    mono: Block = librosa.to_mono(sound.T)
    return mono


def _demand_speech(rate: int) -> None:
    if not SLOWEST_HERTZ <= rate <= FASTEST_HERTZ:
        raise RecordingError(Reason.UNSUPPORTED_FORMAT, f"a sample rate of {rate} Hz is not one of speech")


def _with_pyav(path: Path, out_path: Path, max_seconds: float, *, known: bool) -> DecodeResult:
    """``known``: libsndfile knows the format, so that what cannot be opened is damaged."""
    try:
        container = av.open(str(path), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise _refusal(path, error, known=known) from error
    try:
        with container:
            if not container.streams.audio:
                raise RecordingError(
                    Reason.UNSUPPORTED_FORMAT, f"a {container.format.name} file without an audio track"
                )
            stream = container.streams.audio[0]
            with Writer(out_path, max_seconds) as writer:
                for block, rate in _blocks(container, stream):
                    writer.feed(block, rate)
            _demand_whole(writer.samples / SAMPLE_RATE, _claimed_seconds(container, stream))
            context = stream.codec_context
            return DecodeResult(writer.samples, context.sample_rate, context.channels, context.name)
    except (av.FFmpegError, ValueError) as error:
        raise RecordingError(Reason.CORRUPT_AUDIO, f"the recording cannot be decoded: {_words(error)}") from error


def _blocks(container: Any, stream: Any) -> Iterator[tuple[Block, int]]:
    """Blocks of (frames, channels) with their rate; frames are small, so that some dozens make a block."""
    pending: list[Block] = []
    shape = (0, 0)
    for frame in _frames(container, stream):
        block = _floats(frame)
        now = (frame.sample_rate, block.shape[1])
        # AAC may change its mind about rate and channels on the way
        if pending and (now != shape or len(pending) >= FRAMES_IN_BLOCK):
            yield np.concatenate(pending), shape[0]
            pending = []
        shape = now
        pending.append(block)
    if pending:
        yield np.concatenate(pending), shape[0]


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """What the packets hold. Raises RecordingError(corrupt_audio) at the end if too much of them was damaged."""
    # counted in bytes: damage has no frames to tell apart, and may come as one packet however much it is
    size_bytes = damaged_bytes = 0
    for packet in _packets(container, stream):
        size_bytes += packet.size
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if not bytes(packet).startswith(_TAGS):
                damaged_bytes += packet.size
    if damaged_bytes > max(ONE_FRAME_BYTES, size_bytes * MOST_DAMAGE):
        detail = f"{damaged_bytes} of {size_bytes} bytes of sound are damaged; send the recording again"
        raise RecordingError(Reason.CORRUPT_AUDIO, detail)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets, until its end or damage that nothing is found behind; what is missing is seen later."""
    with suppress(av.InvalidDataError, av.EOFError):
        yield from container.demux(stream)


def _floats(frame: Any) -> Block:
    """A frame of any sample format as floats within -1 to 1, shape (frames, channels)."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    half = 1 << (8 * values.dtype.itemsize - 1)
    middle = half if values.dtype.kind == "u" else 0
    return ((values.astype(np.float64) - middle) / half).astype(np.float32)


def _claimed_seconds(container: Any, stream: Any) -> float:
    """The length that the header is sure of; 0 where it is a guess, or that of a picture beside the sound."""
    if container.format.name in ("mp3", "aac"):
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else 0.0


def _demand_whole(heard_seconds: float, claimed_seconds: float) -> None:
    if heard_seconds < claimed_seconds * (1 - MOST_DAMAGE):
        detail = f"only {heard_seconds:.1f} of {claimed_seconds:.1f} s can be decoded; send the whole recording again"
        raise RecordingError(Reason.CORRUPT_AUDIO, detail)


def _refusal(path: Path, error: Exception, *, known: bool) -> RecordingError:
    with path.open("rb") as file:
        head = file.read(16)
    if known or any(head[at : at + len(mark)] == mark for at, mark in _MARKS):
        return RecordingError(Reason.CORRUPT_AUDIO, f"the recording is damaged from its beginning: {_words(error)}")
    detail = "neither libsndfile nor FFmpeg knows this format; is it a recording? (WAV, FLAC, MP3, OGG, M4A, WebM ...)"
    return RecordingError(Reason.UNSUPPORTED_FORMAT, detail)


def _words(error: Exception) -> str:
    # without the path of our spool, which tells the reader nothing
    return getattr(error, "strerror", None) or type(error).__name__
