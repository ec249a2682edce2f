"""Whisper on a CPU with two batches at once, as the engine child has it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from consumer.core.hearing import SideBySide, to_pcm
from consumer.engines import ctranslate2
from consumer.engines.local import LocalEngine
from consumer.settings import Settings
from tests.support.local_engine import hear_all, recording, text
from tests.support.recordings import recordings
from tests.support.whisper_weights import ct2_tiny_en


def test_two_batches_at_once_are_heard_as_one_after_the_other() -> None:
    model = ctranslate2.load(str(ct2_tiny_en()), revision=None, device="cpu", compute_type="int8", threads=2)
    assert isinstance(model, SideBySide)
    assert model.batches_at_once == 2
    chunks = [to_pcm(spoken.samples) for spoken in recordings()]

    def texts(order: list[int]) -> list[str]:
        heard = model.recognise([chunks[index] for index in order], [None] * len(order), [True] * len(order))
        return [f"{one.text} {one.words}" for one in heard]

    alone = [texts([index])[0] for index in range(len(chunks))]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(texts, ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]))
    assert first == alone
    assert second == alone[::-1]


async def test_a_child_that_heard_two_at_once_ends_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = LocalEngine(Settings(engine="ctranslate2", model=str(ct2_tiny_en()), devices=["cpu"], engine_threads=2))
    await engine.start()
    spoken = [recording(tmp_path, f"r{index}", one.samples) for index, one in enumerate(recordings())]
    assert all(text(outcome) for outcome in await hear_all(engine, spoken))
    await engine.stop()
    assert "worker says" not in caplog.text
