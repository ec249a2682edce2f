"""The silence gate with its real child and real models: no word is lost, and where nobody speaks no model is asked."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from consumer.core.hearing import Samples, without
from consumer.core.model import SAMPLE_RATE, Heard, Recording, Wish
from consumer.engines import silence_gate
from consumer.engines.batch_report import BatchReport
from consumer.engines.local import LocalEngine
from consumer.engines.silence_gate import SilenceGate, has_gate
from consumer.engines.wire import ChunkAsk
from consumer.errors import TransientError
from consumer.settings import Settings
from schemas.codes import WarningCode
from tests.support import tiny_ctc
from tests.support.local_engine import recording, tiny_settings
from tests.support.recordings import recordings, word_errors
from tests.support.sounds import sound
from tests.support.whisper_weights import ct2_tiny_en

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.model]

REPORTS: list[BatchReport[ChunkAsk]] = []
UNVOICED = ("silence", "white noise", "faint noise", "hum", "tone", "ringing", "chords", "beats")


def _settings(**options: object) -> Settings:
    wanted = {"engine": "ctranslate2", "model": str(ct2_tiny_en()), "devices": ["cpu"], "engine_threads": 2}
    return Settings.model_validate({**wanted, **options})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate() -> AsyncIterator[SilenceGate]:
    made = SilenceGate(timeout_seconds=60.0)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LocalEngine]:
    made = LocalEngine(_settings(), observe=REPORTS.append)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ungated() -> AsyncIterator[LocalEngine]:
    made = LocalEngine(_settings(silence_gate="off"))
    await made.start()
    yield made
    await made.stop()


async def _kept_seconds(gate: SilenceGate, folder: Path, samples: Samples) -> float:
    made = recording(folder, "kept", samples)
    kept = without(0, len(samples), await gate.left_out(made, samples))
    return sum(stop - start for start, stop in kept) / SAMPLE_RATE


def _apart(*between: Samples) -> tuple[Samples, str]:
    """The bundled sentences, one after another with sounds between, and what is said."""
    said = recordings()
    parts = [said[0].samples]
    for sound_between, spoken in zip(between, said[1:], strict=False):
        parts += [sound_between, spoken.samples]
    return np.concatenate(parts), " ".join(spoken.text for spoken in said[: len(between) + 1])


@pytest.mark.parametrize("name", UNVOICED)
async def test_sounds_without_a_voice_are_left_out_whole(gate: SilenceGate, tmp_path: Path, name: str) -> None:
    assert await _kept_seconds(gate, tmp_path, sound(name)) == 0


@pytest.mark.parametrize("snr_decibels", [20, 0, -5])
@pytest.mark.parametrize("index", range(5))
async def test_speech_is_kept_whole_in_any_noise(
    gate: SilenceGate, tmp_path: Path, index: int, snr_decibels: int
) -> None:
    spoken = recordings()[index]
    noise = np.resize(sound("white noise"), len(spoken.samples))
    noise = noise / noise.std() * spoken.samples.std() * 10 ** (-snr_decibels / 20)

    kept = await _kept_seconds(gate, tmp_path, (spoken.samples + noise).astype(np.float32))

    assert kept == pytest.approx(spoken.seconds)


async def test_a_word_of_half_a_second_in_a_minute_of_hiss_is_found(gate: SilenceGate, tmp_path: Path) -> None:
    word = recordings()[3].samples[int(0.4 * SAMPLE_RATE) : int(0.95 * SAMPLE_RATE)]
    samples = np.resize(sound("faint noise"), 60 * SAMPLE_RATE)
    samples[30 * SAMPLE_RATE :][: len(word)] += word
    made = recording(tmp_path, "word", samples)

    kept = without(0, len(samples), await gate.left_out(made, samples))

    assert kept[0][0] <= 30 * SAMPLE_RATE
    assert kept[-1][1] >= 30 * SAMPLE_RATE + len(word)
    assert kept[-1][1] - kept[0][0] < 4 * SAMPLE_RATE


async def test_the_same_recording_is_cut_the_same_way_every_time(gate: SilenceGate, tmp_path: Path) -> None:
    samples = np.concatenate([sound("melody"), recordings()[0].samples] * 5)
    made = recording(tmp_path, "long", samples)

    first, second = [await gate.left_out(made, samples) for _ in range(2)]

    assert first == second
    assert first


async def test_a_long_recording_is_listened_to_in_several_requests(
    gate: SilenceGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.concatenate([np.resize(sound("faint noise"), 90 * SAMPLE_RATE), recordings()[0].samples])
    made = recording(tmp_path, "long", samples)
    at_once = await gate.left_out(made, samples)
    monkeypatch.setattr(silence_gate, "_REQUEST_SAMPLES", SAMPLE_RATE)

    assert await gate.left_out(made, samples) == at_once
    assert at_once[0][0] == 0


async def test_a_child_that_dies_fails_its_recording_for_now_and_comes_back(tmp_path: Path) -> None:
    gate = SilenceGate(timeout_seconds=60.0)
    await gate.start()
    try:
        made = recording(tmp_path, "hum", sound("hum"))
        for pid in gate.child_pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = asyncio.create_task(gate.left_out(made, sound("hum")))
        await asyncio.sleep(0)
        for pid in gate.child_pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(TransientError):
            await waiting
        assert await gate.left_out(made, sound("hum")) == ((0, made.samples),)
    finally:
        await gate.stop()


@pytest.mark.parametrize("name", UNVOICED)
async def test_a_recording_without_a_voice_reaches_no_model(engine: LocalEngine, tmp_path: Path, name: str) -> None:
    REPORTS.clear()

    heard = await engine.transcribe(recording(tmp_path, "sound", sound(name)), Wish())

    assert (heard.recognised.text, heard.recognised.segments) == ("", [])
    assert heard.recognised.warnings == [WarningCode.NO_SPEECH]
    assert (heard.recognised.confidence, heard.cost_usd) == (None, 0.0)
    assert REPORTS == []


@pytest.mark.parametrize("name", ["silence", "faint noise", "hum", "beats"])
async def test_speech_on_both_sides_of_twenty_seconds_is_whole_and_told_apart(
    engine: LocalEngine, tmp_path: Path, name: str
) -> None:
    samples, text = _apart(sound(name))
    REPORTS.clear()

    heard = await engine.transcribe(recording(tmp_path, "apart", samples), Wish())

    recognised = heard.recognised
    assert _errors(text, [heard]) <= 3
    assert recognised.warnings == [WarningCode.SILENCE_SKIPPED]
    assert len([ask for report in REPORTS for ask in report.items]) == 1
    first, second = recognised.segments[0], recognised.segments[-1]
    border = recordings()[0].seconds
    assert first.end_seconds <= border + 0.4
    assert second.start_seconds >= border + 18
    assert "leisure" in first.text
    assert second.end_seconds <= len(samples) / SAMPLE_RATE


async def test_music_between_sentences_adds_no_words(engine: LocalEngine, tmp_path: Path) -> None:
    samples, text = _apart(sound("melody"))

    heard = await engine.transcribe(recording(tmp_path, "music", samples), Wish())

    assert _errors(text, [heard]) <= 3
    assert heard.recognised.warnings == [WarningCode.SILENCE_SKIPPED]


async def test_with_silences_between_no_word_is_lost_and_fewer_windows_are_heard(
    engine: LocalEngine, ungated: LocalEngine, tmp_path: Path
) -> None:
    gaps = (3.0, 12.0, 5.0, 25.0)
    samples, text = _apart(*(np.resize(sound("faint noise"), int(gap * SAMPLE_RATE)) for gap in gaps))
    made = recording(tmp_path, "gaps", samples)
    REPORTS.clear()

    with_gate, without_gate = [await one.transcribe(made, Wish()) for one in (engine, ungated)]

    assert _errors(text, [with_gate]) <= _errors(text, [without_gate])
    assert sum(len(report.items) for report in REPORTS) == 1
    assert with_gate.recognised.warnings == [WarningCode.SILENCE_SKIPPED]
    assert without_gate.recognised.warnings == []


async def test_words_of_a_spliced_window_are_in_the_recordings_own_time(engine: LocalEngine, tmp_path: Path) -> None:
    samples, _ = _apart(sound("silence"), sound("hum"))

    heard = await engine.transcribe(recording(tmp_path, "times", samples), Wish())

    words = heard.recognised.words or []
    times = [time for word in words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert "".join(word.text for word in words) == "".join(heard.recognised.text.split())
    loud = np.abs(samples) > 0.02
    for word in words:
        assert loud[int(word.start_seconds * SAMPLE_RATE) : int(word.end_seconds * SAMPLE_RATE) + 800].any()


async def test_a_ctc_model_behind_the_gate_hears_the_voices_only(tmp_path: Path) -> None:
    settings = tiny_settings(tiny_ctc.build(tmp_path, "group")).model_copy(update={"silence_gate": "on"})
    reports: list[BatchReport[ChunkAsk]] = []
    engine = LocalEngine(settings, observe=reports.append)
    await engine.start()
    try:
        samples, _ = _apart(sound("silence"))
        heard = await engine.transcribe(recording(tmp_path, "apart", samples), Wish())
        silent = await engine.transcribe(recording(tmp_path, "hum", sound("hum")), Wish())
    finally:
        await engine.stop()

    listened = sum(ask.audio_seconds for report in reports for ask in report.items)
    assert listened < len(samples) / SAMPLE_RATE - 18
    assert heard.recognised.warnings == [WarningCode.SILENCE_SKIPPED]
    assert silent.recognised.warnings == [WarningCode.NO_SPEECH]


async def test_the_gate_is_for_whisper_unless_the_settings_say_otherwise() -> None:
    gates = {
        (engine, wanted): has_gate(Settings.model_validate({"engine": engine, "silence_gate": wanted}))
        for engine in ("ctc", "whisper", "ctranslate2")
        for wanted in ("auto", "on", "off")
    }

    assert {key for key, has in gates.items() if has} == {
        *((engine, "on") for engine in ("ctc", "whisper", "ctranslate2")),
        ("whisper", "auto"),
        ("ctranslate2", "auto"),
    }


async def test_a_chunk_is_read_without_what_is_left_out_of_it(tmp_path: Path) -> None:
    samples = np.arange(1000, dtype=np.float32) / np.float32(32_768)
    made: Recording = recording(tmp_path, "count", samples)
    ask = ChunkAsk(made.pcm_path, 10, 500, left_out=((100, 200), (300, 350)))

    sent = ChunkAsk.from_wire(ask.to_wire())

    assert sent.read().tolist() == [*range(10, 100), *range(200, 300), *range(350, 500)]
    assert sent.audio_seconds == 340 / SAMPLE_RATE
    with pytest.raises(TransientError, match="cut short"):
        replace(sent, stop=1001).read()


def _errors(text: str, heard: list[Heard]) -> int:
    return word_errors([text], [" ".join(one.recognised.text for one in heard)])[0]
