"""The local engine with a real model in a real child: shared batches, texts, times and costs."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from consumer.core.hearing import PCM_TYPE
from consumer.core.model import Recording, Urgency, Wish
from consumer.engines import ctc
from consumer.engines.batch_report import BatchReport
from consumer.engines.local import LocalEngine
from consumer.engines.wire import ChunkAsk
from consumer.errors import EventError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason
from tests.support import tiny_ctc
from tests.support.local_engine import hear_all, recording, text, tiny_settings
from tests.support.tiny_ctc import babble

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPORTS: list[BatchReport[ChunkAsk]] = []
PENDING: list[int] = []
"""Chunks submitted and unanswered at the end of each batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ctc.build(tmp_path_factory.mktemp("model"), "group")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return tiny_settings(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(settings: Settings) -> AsyncIterator[LocalEngine]:
    def observe(report: BatchReport[ChunkAsk]) -> None:
        REPORTS.append(report)
        if local._loaded:
            PENDING.append(local._loaded.dispatcher.pending)

    local = LocalEngine(settings, observe=observe)
    await local.start()
    yield local
    await local.stop()


async def test_recordings_share_batches_and_each_says_what_it_says_alone(
    engine: LocalEngine, settings: Settings, tmp_path: Path
) -> None:
    lengths = (1.3, 1.9, 1.1, 4.2, 4.9, 17.0)
    recordings = [recording(tmp_path, f"r{index}", babble(length, index)) for index, length in enumerate(lengths)]
    REPORTS.clear()
    together = [text(outcome) for outcome in await hear_all(engine, recordings)]
    shared = [report for report in REPORTS if len({ask.pcm_path for ask in report.items}) > 1]
    assert shared, "no batch held chunks of several recordings"
    alone = [text(await engine.transcribe(one, Wish())) for one in recordings]
    assert together == alone
    assert all(alone)
    model = ctc.load(settings.model, revision=None, device="cpu", compute_type="float32", threads=1)
    for one, said in zip(recordings, alone, strict=True):
        samples = np.fromfile(one.pcm_path, PCM_TYPE)
        spans = engine._family.plan(samples)
        heard = [model.recognise([samples[span.start : span.stop]], [None], [False])[0] for span in spans]
        assert engine._family.merge(spans, heard, model.info, one.audio_seconds).text == said


async def test_int8_hears_one_chunk_at_a_time_whoever_else_waits(settings: Settings, tmp_path: Path) -> None:
    """As the model says in its info: the limits of the settings are those of a batch that may hold more."""
    reports: list[BatchReport[ChunkAsk]] = []
    local = LocalEngine(settings.model_copy(update={"compute_type": "auto"}), observe=reports.append)
    await local.start()
    try:
        recordings = [recording(tmp_path, f"i{index}", babble(2.0, index)) for index in range(4)]
        together = await hear_all(local, recordings)
        assert [len(report.items) for report in reports] == [1] * 4
        assert [text(outcome) for outcome in together] == [
            text(await local.transcribe(one, Wish())) for one in recordings
        ]
        assert (local.ref.quantization or "").startswith("int8")
    finally:
        await local.stop()


async def test_a_long_recording_leaves_room_for_others(engine: LocalEngine, tmp_path: Path) -> None:
    """15 chunks of 5 s, of which a batch of 40 s holds eight: no more than that are ever ahead of a newcomer."""
    PENDING.clear()
    heard = await engine.transcribe(recording(tmp_path, "long", babble(60.0, 1)), Wish())
    assert len(PENDING) > 1
    assert max(PENDING) <= 8
    assert heard.recognised.words
    assert heard.recognised.words[-1].end_seconds > 55.0


async def test_a_transcript_carries_its_times_its_cost_and_its_maker(engine: LocalEngine, tmp_path: Path) -> None:
    heard = await engine.transcribe(recording(tmp_path, "r", babble(12.0, 1)), Wish(urgency=Urgency(critical=True)))
    recognised, (attempt,) = heard.recognised, heard.attempts
    assert (recognised.engine, recognised.language) == (engine.ref, "en")
    assert recognised.audio_seconds == 12.0
    times = [moment for word in recognised.words or [] for moment in (word.start_seconds, word.end_seconds)]
    assert times
    assert times == sorted(times)
    assert times[-1] <= 12.0
    assert " ".join(segment.text for segment in recognised.segments) == recognised.text
    assert recognised.confidence is not None
    assert 0 < recognised.confidence < 1
    assert heard.infer_seconds is not None
    assert heard.infer_seconds > 0
    assert heard.queue_seconds is not None
    assert (attempt.engine, attempt.outcome, attempt.usage_source) == ("ctc", "ok", "measured")
    assert attempt.audio_seconds == 12.0
    # alone in its batches it owns all of their time, at 3.6 dollars an hour: a tenth of a cent a second
    assert heard.cost_usd == attempt.cost_usd == pytest.approx(heard.infer_seconds / 1000, rel=1e-6)
    assert engine.health_age_seconds() is not None


async def test_nothing_and_silence_are_answered_without_a_model(engine: LocalEngine, tmp_path: Path) -> None:
    REPORTS.clear()
    for name, samples in (("empty", babble(0.0, 0)), ("silent", np.zeros(50_000, np.float32))):
        heard = await engine.transcribe(recording(tmp_path, name, samples), Wish())
        assert (heard.recognised.text, heard.recognised.warnings) == ("", ["no_speech"])
        assert heard.cost_usd == 0.0
    assert not REPORTS


@pytest.mark.parametrize("samples", [1, 399, 400, 401])
async def test_the_shortest_recordings_are_answered(engine: LocalEngine, tmp_path: Path, samples: int) -> None:
    heard = await engine.transcribe(recording(tmp_path, "short", babble(1.0, 3)[:samples]), Wish())
    assert heard.recognised.audio_seconds == samples / 16_000


async def test_a_language_is_brought_to_the_models_own_code(engine: LocalEngine) -> None:
    assert [engine.language_of(Wish(language=tag)) for tag in (None, "en", "EN-gb", "en_US")] == ["en"] * 4
    with pytest.raises(EventError) as failure:
        engine.language_of(Wish(language="de"))
    assert failure.value.reason is Reason.UNSUPPORTED_LANGUAGE


async def test_a_recording_whose_samples_are_gone_fails_alone(engine: LocalEngine, tmp_path: Path) -> None:
    gone = recording(tmp_path, "gone", babble(1.5, 1))
    cut_short = Recording("cut", gone.pcm_path, gone.samples + 10)
    whole = recording(tmp_path, "whole", babble(1.5, 2))
    with pytest.raises(TransientError, match="cannot be read"):
        await engine.transcribe(cut_short, Wish())
    asks = [ChunkAsk(path, 0, gone.samples) for path in (tmp_path / "none.pcm", whole.pcm_path)]
    missing, there = await engine._children.hear(0, asks)
    assert isinstance(missing, TransientError)
    assert not isinstance(there, TransientError)


async def test_the_service_process_imports_no_model_library() -> None:
    program = (
        "import sys, consumer.engines.local;"
        "print([name for name in ('torch', 'transformers', 'ctranslate2', 'faster_whisper') if name in sys.modules])"
    )
    run = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.strip() == b"[]"
