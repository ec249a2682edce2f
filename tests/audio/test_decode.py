import os
import subprocess
import sys
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from consumer.audio import decode
from consumer.audio.decode import DecodeResult, _floats, decode_file
from consumer.core.hearing import PCM_TYPE, to_pcm, to_samples
from consumer.core.model import SAMPLE_BYTES, SAMPLE_RATE
from consumer.errors import RecordingError, TransientError
from consumer.workers import decode_child
from schemas.codes import Reason
from tests.support.audio_files import Samples, encode_m4a, speech, write_audio

MAX_SECONDS = 60.0


def at_rate(samples: Samples, rate: int) -> Samples:
    if rate == SAMPLE_RATE:
        return samples
    resampled = librosa.resample(samples, orig_sr=SAMPLE_RATE, target_sr=rate, res_type="soxr_hq")
    return np.asarray(resampled, np.float32)


def stereo(samples: Samples) -> Samples:
    return np.stack([samples, samples * np.float32(0.5)], axis=1)


def decoded(path: Path, max_seconds: float = MAX_SECONDS) -> tuple[DecodeResult, Samples]:
    out_path = path.with_suffix(".pcm")
    result = decode_file(path, out_path, max_seconds=max_seconds)
    pcm = np.fromfile(out_path, PCM_TYPE)
    assert len(pcm) == result.samples
    return result, to_samples(pcm)


def refused(path: Path, max_seconds: float = MAX_SECONDS) -> Reason:
    with pytest.raises(RecordingError) as refusal:
        decoded(path, max_seconds)
    assert str(path) not in refusal.value.detail
    return refusal.value.reason


def likeness(heard: Samples, original: Samples, lag: int = 0) -> float:
    heard = heard[lag:]
    length = min(len(heard), len(original))
    return float(np.corrcoef(heard[:length], original[:length])[0, 1])


@pytest.mark.parametrize(
    ("suffix", "rate", "subtype", "channels", "least"),
    [
        (".wav", 16_000, "PCM_16", 1, 0.99999),
        (".wav", 16_000, "PCM_U8", 1, 0.999),
        (".wav", 8_000, "PCM_16", 1, 0.99),
        (".wav", 44_100, "PCM_24", 1, 0.99999),
        (".wav", 44_100, "PCM_32", 2, 0.99999),
        (".wav", 48_000, "FLOAT", 2, 0.99999),
        (".wav", 8_000, "ULAW", 1, 0.99),
        (".flac", 48_000, "PCM_16", 2, 0.9999),
        (".aiff", 22_050, "PCM_16", 1, 0.999),
        (".mp3", 44_100, None, 2, 0.999),
        (".ogg", 44_100, None, 2, 0.99),
        (".opus", 48_000, None, 1, 0.99),
        (".m4a", 44_100, None, 2, 0.999),
        (".m4a", 16_000, None, 1, 0.999),
        (".mp4", 48_000, None, 1, 0.99),
        (".webm", 48_000, None, 2, 0.99),
    ],
)
def test_every_format_sounds_like_its_original(
    tmp_path: Path, suffix: str, rate: int, subtype: str | None, channels: int, least: float
) -> None:
    original = speech()
    samples = at_rate(original, rate)
    path = write_audio(tmp_path / f"a{suffix}", stereo(samples) if channels == 2 else samples, rate, subtype=subtype)
    result, heard = decoded(path)
    assert (result.source_rate, result.channels) == (rate, channels)
    assert abs(len(heard) - len(original)) <= 0.02 * SAMPLE_RATE
    assert likeness(heard, original) > least


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_16_bits_at_16_khz_come_through_to_the_bit(tmp_path: Path, suffix: str) -> None:
    original = np.concatenate([np.arange(-32768, 32768).astype(np.int16), to_pcm(speech())])
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, original, SAMPLE_RATE, subtype="PCM_16")
    _, heard = decoded(path)
    np.testing.assert_array_equal(to_pcm(heard), original)


def test_what_is_louder_than_full_scale_is_clipped_and_does_not_wrap(tmp_path: Path) -> None:
    loud = np.array([0.0, 1.5, -1.5, 1.0, -1.0], np.float32)
    path = write_audio(tmp_path / "a.wav", loud, SAMPLE_RATE, subtype="FLOAT")
    assert to_pcm(decoded(path)[1]).tolist() == [0, 32767, -32768, 32767, -32768]


def test_bare_aac_is_heard_with_its_encoder_delay(tmp_path: Path) -> None:
    original = speech()
    _, heard = decoded(write_audio(tmp_path / "a.aac", at_rate(original, 48_000), 48_000))
    assert max(likeness(heard, original, lag) for lag in range(1200)) > 0.99


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_a_recording_gives_the_same_samples_whole_and_as_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int
) -> None:
    samples = np.tile(at_rate(speech(), rate), 4)
    samples[100] = np.nan
    path = write_audio(tmp_path / "a.wav", stereo(samples) if channels == 2 else samples, rate, subtype="FLOAT")
    _, whole = decoded(path)
    monkeypatch.setattr(decode, "WHOLE_SECONDS", 0)
    monkeypatch.setattr(decode, "BLOCK_SAMPLES", 50_000)  # many blocks
    monkeypatch.setattr(librosa, "resample", None)  # not asked for
    _, streamed = decoded(path)
    assert len(whole) == len(streamed)
    np.testing.assert_allclose(whole, streamed, rtol=0, atol=1.01 / 32768)


def test_what_librosa_resamples_is_librosas_to_the_last_of_16_bits(tmp_path: Path) -> None:
    samples = at_rate(speech(), 44_100)
    _, heard = decoded(write_audio(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT"))
    expected = librosa.resample(samples, orig_sr=44_100, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    np.testing.assert_array_equal(to_pcm(heard), to_pcm(expected[: len(heard)]))
    assert len(expected) - len(heard) <= 1  # by default librosa rounds its length up


@pytest.mark.parametrize(("rate", "channels"), [(2_000, 1), (48_000, 200), (700_000, 1)])
def test_a_recording_that_does_not_fit_in_memory_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int
) -> None:
    seconds = 61 if rate < 48_000 else 9
    path = write_audio(tmp_path / "a.wav", np.zeros((seconds * rate, channels), np.float32), rate)
    monkeypatch.setattr(librosa, "resample", None)  # not asked for
    result, _ = decoded(path, max_seconds=120.0)
    assert result.samples == seconds * SAMPLE_RATE


def test_a_recording_longer_than_allowed_is_stopped_on_the_way(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.flac"
    with soundfile.SoundFile(bomb, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    assert bomb.stat().st_size < 1024 * 1024
    assert refused(bomb, max_seconds=30.0) is Reason.TOO_LONG
    assert bomb.with_suffix(".pcm").stat().st_size <= 30 * SAMPLE_RATE * SAMPLE_BYTES


def test_the_limit_counts_in_every_container(tmp_path: Path) -> None:
    for name in ("a.m4a", "a.webm", "a.mp3", "a.wav"):
        assert (
            refused(write_audio(tmp_path / name, at_rate(speech(), 48_000), 48_000), max_seconds=3.0) is Reason.TOO_LONG
        )


def test_a_limit_that_fits_exactly_fits(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", speech()[: 3 * SAMPLE_RATE], SAMPLE_RATE)
    assert decoded(path, max_seconds=3.0)[0].samples == 3 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.UNSUPPORTED_FORMAT),
        (b"Dear service, please find attached", Reason.UNSUPPORTED_FORMAT),
        (b"<!doctype html><title>404</title>" * 50, Reason.UNSUPPORTED_FORMAT),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), Reason.UNSUPPORTED_FORMAT),
        (np.random.default_rng(0).bytes(100_000), Reason.UNSUPPORTED_FORMAT),
        (b"fLaC" + np.random.default_rng(1).bytes(5_000), Reason.CORRUPT_AUDIO),
        (b"OggS" + np.random.default_rng(1).bytes(5_000), Reason.CORRUPT_AUDIO),
        (b"\0\0\0\x20ftypM4A " + np.random.default_rng(1).bytes(5_000), Reason.CORRUPT_AUDIO),
    ],
    ids=["nothing", "a letter", "a web page", "a picture", "noise", "torn FLAC", "torn OGG", "torn M4A"],
)
def test_what_is_no_recording_is_told_from_one_that_is_torn(tmp_path: Path, content: bytes, reason: Reason) -> None:
    path = tmp_path / "a.audio"
    path.write_bytes(content)
    assert refused(path) is reason


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    secret = write_audio(tmp_path / "secret.wav", speech(), SAMPLE_RATE)
    playlist = tmp_path / "list.audio"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret.name}\n",
    ):
        playlist.write_text(text)
        assert refused(playlist) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("name", ["a.flac", "a.m4a", "a.webm"])
def test_half_of_a_recording_whose_header_knows_better_is_corrupt(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, at_rate(speech(), 48_000), 48_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path) is Reason.CORRUPT_AUDIO


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg"])
def test_a_recording_without_a_sure_length_is_heard_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    original = speech()
    path = write_audio(tmp_path / name, original, SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, heard = decoded(path)
    assert 0.2 * len(original) < len(heard) < 0.7 * len(original)
    assert likeness(heard, original) > 0.99


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW", "ALAW", "GSM610", "IMA_ADPCM"])
@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF])
def test_a_wav_whose_recorder_never_wrote_its_length_is_heard_whole(tmp_path: Path, subtype: str, claimed: int) -> None:
    original = at_rate(speech(), 8000)
    path = write_audio(tmp_path / "a.wav", original, 8000, subtype=subtype)
    path.write_bytes(_with_data_size(path.read_bytes(), claimed))

    _, heard = decoded(path)

    assert abs(len(heard) - 2 * len(original)) < 0.1 * SAMPLE_RATE
    assert likeness(heard, speech()) > 0.9


@pytest.mark.parametrize("after", [b"", b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf61.7.100\0\0", b"\0"])
@pytest.mark.parametrize("subtype", ["PCM_16", "GSM610"])
def test_a_wav_without_sound_is_empty_whatever_stands_behind_it(tmp_path: Path, subtype: str, after: bytes) -> None:
    path = write_audio(tmp_path / "a.wav", at_rate(speech(), 8000), 8000, subtype=subtype)
    content = _with_data_size(path.read_bytes(), 0)
    path.write_bytes(content[: content.index(b"data") + 8] + after)

    assert refused(path) is Reason.EMPTY


def _with_data_size(wav: bytes, size: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:place] + size.to_bytes(4, "little") + wav[place + 4 :]


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_a_scratch_in_a_recording_does_not_lose_it(tmp_path: Path, name: str) -> None:
    original = speech()
    path = write_audio(tmp_path / name, original, SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = np.random.default_rng(1).bytes(500)
    path.write_bytes(content)
    _, heard = decoded(path)
    assert len(heard) >= 0.9 * len(original)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.opus"])
def test_a_recording_that_is_noise_for_a_good_part_is_corrupt(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, at_rate(speech(), 48_000), 48_000)
    content = bytearray(path.read_bytes())
    start, length = len(content) * 3 // 10, len(content) * 4 // 10
    content[start : start + length] = np.random.default_rng(1).bytes(length)
    path.write_bytes(content)
    assert refused(path) is Reason.CORRUPT_AUDIO


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.opus"])
@pytest.mark.parametrize("parts", [("austen-0870", "austen-0880"), ("austen-0880", "austen-0870")])
def test_recordings_joined_end_to_end_are_heard_whole(tmp_path: Path, name: str, parts: tuple[str, str]) -> None:
    first, second = map(speech, parts)
    joined = b"".join(
        write_audio(tmp_path / name, at_rate(part, 48_000), 48_000).read_bytes() for part in (first, second)
    )
    path = tmp_path / name
    path.write_bytes(joined)
    _, heard = decoded(path)
    assert abs(len(heard) - len(first) - len(second)) < 0.15 * SAMPLE_RATE
    assert likeness(heard, first) > 0.97
    assert max(likeness(heard[len(first) :], second, lag) for lag in range(2400)) > 0.97


def test_pictures_between_joined_recordings_are_no_damage(tmp_path: Path) -> None:
    original = speech()
    path = write_audio(tmp_path / "a.mp3", original, SAMPLE_RATE)
    size_bytes = 60_000
    tag = b"ID3\x03\0\0" + bytes((size_bytes >> 7 * n) & 0x7F for n in (3, 2, 1, 0)) + bytes(size_bytes)
    path.write_bytes((tag + path.read_bytes()) * 3)
    _, heard = decoded(path)
    assert len(heard) > 2.95 * len(original)


def test_an_mp3_of_varying_bit_rate_without_a_length_is_heard_whole(tmp_path: Path) -> None:
    # loud first: whoever guesses the length from the first frames finds it too short
    loud = np.random.default_rng(1).uniform(-0.9, 0.9, SAMPLE_RATE // 2).astype(np.float32)
    original = at_rate(np.concatenate([loud, np.tile(speech(), 3)]), 44_100)
    path = tmp_path / "a.mp3"
    soundfile.write(path, original, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\xff\xfb", 4) :])  # the frame that holds the length is the first
    _, heard = decoded(path)
    assert len(heard) > 0.99 * len(original) / 44_100 * SAMPLE_RATE


def test_what_is_left_of_an_mp3_that_lost_its_middle_is_heard(tmp_path: Path) -> None:
    original = speech()
    path = write_audio(tmp_path / "a.mp3", at_rate(original, 44_100), 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 10] + content[len(content) * 7 // 10 :])
    _, heard = decoded(path)
    assert 0.55 * len(original) < len(heard) < 0.62 * len(original)


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_a_header_without_audio_is_empty(tmp_path: Path, rate: int) -> None:
    assert refused(write_audio(tmp_path / "a.wav", np.zeros(0, np.float32), rate)) is Reason.EMPTY


@pytest.mark.parametrize("sample_format", ["u8", "u8p", "s16", "s16p", "s32", "s32p", "flt", "fltp", "dbl", "dblp"])
def test_every_sample_format_of_a_codec_means_the_same_sound(sample_format: str) -> None:
    planes = np.stack([speech()[:4096], -speech()[:4096]])
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout="stereo")
    frame.sample_rate = SAMPLE_RATE
    (converted,) = av.AudioResampler(format=sample_format, layout="stereo", rate=SAMPLE_RATE).resample(frame)
    coarse = 1 / 128 if sample_format.startswith("u8") else 1e-4
    np.testing.assert_allclose(_floats(converted), planes.T, atol=coarse)


def test_a_video_without_sound_has_no_audio_track(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    assert refused(path) is Reason.UNSUPPORTED_FORMAT


def test_what_is_not_a_number_becomes_silence(tmp_path: Path) -> None:
    samples = speech().copy()
    samples[1000:1010] = (np.nan, np.inf, -np.inf, np.nan, np.nan, np.inf, np.inf, np.nan, np.nan, np.nan)
    _, heard = decoded(write_audio(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT"))
    assert np.isfinite(heard).all()
    assert not heard[1000:1010].any()


@pytest.mark.parametrize("rate", [1, 100, 2_000_000])
def test_an_absurd_sample_rate_is_refused(tmp_path: Path, rate: int) -> None:
    assert refused(write_audio(tmp_path / "a.wav", np.zeros(1000, np.float32), rate)) is Reason.UNSUPPORTED_FORMAT


def test_a_spool_at_fault_is_not_blamed_on_the_recording(tmp_path: Path) -> None:
    path = encode_m4a(tmp_path / "a.m4a", speech(), SAMPLE_RATE)
    with pytest.raises(TransientError):
        decode_file(path, Path("/dev/full"), max_seconds=MAX_SECONDS)
    with pytest.raises(TransientError):
        decode_file(tmp_path / "gone.wav", tmp_path / "out.pcm", max_seconds=MAX_SECONDS)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import consumer.audio.decoder, consumer.audio.fetch, consumer.audio.spool",
            ["torch", "transformers", "librosa", "numba"],
        ),
        (
            "import consumer.workers.decode_child as child; child.setup({'max_seconds': 60, 'cache_dir': '.'})",
            ["torch", "transformers"],
        ),
    ],
    ids=["service", "decode child"],
)
def test_no_model_library_is_loaded_to_decode(code: str, absent: list[str]) -> None:
    assert loaded_after(code, absent) == []


def test_a_decoder_is_warm_before_it_says_that_it_is_ready() -> None:
    # what librosa's first resampling would otherwise load under the first recording
    late = ["librosa.core.audio", "numba", "soxr", "scipy.signal"]
    assert (
        loaded_after(
            "import consumer.workers.decode_child as child; child.setup({'max_seconds': 60, 'cache_dir': '.'})", late
        )
        == late
    )


@pytest.mark.parametrize("writable", [True, False])
def test_librosa_can_be_imported_from_a_folder_that_nobody_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(os, "access", lambda *_: writable)
    decode_child._let_numba_cache(tmp_path)
    assert os.environ.pop("NUMBA_CACHE_DIR", None) == (None if writable else str(tmp_path))


def loaded_after(code: str, names: list[str]) -> list[str]:
    """Which of these modules a fresh process has once it has run the code."""
    script = f"import sys; {code}; print(*[name for name in {names} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ran.stdout.split()


def test_a_decoder_that_swells_is_stopped_by_its_own_limit() -> None:
    code = (
        "import consumer.workers.decode_child as child, numpy as np\n"
        "child.setup({'max_seconds': 60, 'cache_dir': '.'})\n"
        "try:\n    np.empty(child.ADDRESS_SPACE_BYTES, np.uint8)\n"
        "except MemoryError:\n    print('stopped')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "stopped"
