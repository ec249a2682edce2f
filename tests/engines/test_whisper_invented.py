"""Sounds without words, straight to both Whisper engines, no gate before them: whatever they make up is dropped."""

import numpy as np
import pytest

from consumer.core.hearing import HeardChunk, Model, Samples, to_pcm
from consumer.core.model import SAMPLE_RATE
from consumer.engines import ctranslate2, whisper
from schemas.codes import WarningCode
from tests.support.recordings import recordings, word_error_rate
from tests.support.sounds import WORDLESS, sound
from tests.support.whisper_weights import ct2_tiny_en, hf_tiny_en

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["ctranslate2-int8", "ctranslate2-float32", "whisper-float32"])
def model(request: pytest.FixtureRequest) -> Model:
    engine, _, compute_type = request.param.partition("-")
    if engine == "ctranslate2":
        folder = str(ct2_tiny_en())
        return ctranslate2.load(folder, revision=None, device="cpu", compute_type=compute_type, threads=2)
    return whisper.load(str(hf_tiny_en()), revision=None, device="cpu", compute_type=compute_type, threads=2)


@pytest.fixture(scope="module")
def heard(model: Model) -> dict[str, HeardChunk]:
    """What is heard in each sound, all in one batch with speech."""
    chunks = [*map(sound, WORDLESS), recordings()[0].samples]
    answers = model.recognise([to_pcm(chunk) for chunk in chunks], [None] * len(chunks), [False] * len(chunks))
    return dict(zip([*WORDLESS, "speech"], answers, strict=True))


@pytest.mark.parametrize("name", WORDLESS)
def test_no_word_is_made_up(heard: dict[str, HeardChunk], name: str) -> None:
    assert heard[name].text == ""


def test_dropping_a_text_is_told(heard: dict[str, HeardChunk]) -> None:
    dropped = {name for name in WORDLESS if WarningCode.TEXT_DROPPED in heard[name].warnings}

    assert {"silence", "white noise", "hum", "looped syllable"} <= dropped


def test_speech_in_the_same_batch_is_untouched(heard: dict[str, HeardChunk]) -> None:
    assert word_error_rate([recordings()[0].text], [heard["speech"].text]) < 0.05
    assert heard["speech"].warnings == ()


def test_a_phrase_said_over_and_over_is_heard_again_and_reported(model: Model) -> None:
    phrase = recordings()[3].samples[int(0.2 * SAMPLE_RATE) : SAMPLE_RATE]

    [first], [second] = (model.recognise([to_pcm(sound_of(phrase, 25))], [None], [False]) for _ in range(2))

    assert WarningCode.REPETITION in first.warnings
    assert first.text.casefold().count("married") < 10
    assert (first.text, first.warnings) == (second.text, second.warnings)


def sound_of(phrase: Samples, times: int) -> Samples:
    return np.tile(phrase, times)
