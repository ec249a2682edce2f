"""Both Whisper engines on real weights: what they hear, and that company changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from consumer.core import invented
from consumer.core.hearing import HeardChunk, Model, Samples, to_pcm
from consumer.core.model import SAMPLE_RATE
from consumer.core.whisper import WINDOW_SAMPLES
from consumer.engines import ctranslate2, whisper
from consumer.engines.whisper_text import Vocabulary
from schemas.codes import WarningCode
from schemas.models import EngineRef
from tests.support.recordings import Spoken, recordings, word_error_rate
from tests.support.whisper_weights import ct2_as_if_multilingual, ct2_tiny_en, hf_as_if_multilingual, hf_tiny_en

pytestmark = pytest.mark.model


def _ct2(compute_type: str) -> Model:
    return ctranslate2.load(str(ct2_tiny_en()), revision=None, device="cpu", compute_type=compute_type, threads=2)


@pytest.fixture(scope="module", params=["ctranslate2-int8", "ctranslate2-float32", "whisper-float32"])
def model(request: pytest.FixtureRequest) -> Model:
    engine, _, compute_type = request.param.partition("-")
    if engine == "ctranslate2":
        return _ct2(compute_type)
    return whisper.load(str(hf_tiny_en()), revision=None, device="cpu", compute_type=compute_type, threads=2)


@pytest.fixture(scope="module")
def alone(model: Model) -> list[HeardChunk]:
    """Each recording heard by itself, with word times."""
    return [_hear(model, [spoken.samples], words=True)[0] for spoken in recordings()]


def _hear(model: Model, chunks: list[Samples], *, words: bool = False) -> list[HeardChunk]:
    return model.recognise([to_pcm(chunk) for chunk in chunks], [None] * len(chunks), [words] * len(chunks))


@pytest.mark.parametrize(("index", "bound"), [(0, 0.05), (1, 0.45), (2, 0.3), (3, 0.1), (4, 0.05)])
def test_each_recording_is_heard_nearly_right(alone: list[HeardChunk], index: int, bound: float) -> None:
    assert word_error_rate([recordings()[index].text], [alone[index].text]) <= bound


def test_all_recordings_together_stay_under_eleven_percent(alone: list[HeardChunk]) -> None:
    assert word_error_rate([spoken.text for spoken in recordings()], [heard.text for heard in alone]) < 0.11


@pytest.mark.parametrize("size", [4, 10])
def test_company_changes_no_text(model: Model, alone: list[HeardChunk], size: int) -> None:
    order = [(index * 3 + 1) % 5 for index in range(size)]

    together = _hear(model, [recordings()[index].samples for index in order])

    assert [heard.text for heard in together] == [alone[index].text for index in order]
    assert [heard.tokens for heard in together] == [alone[index].tokens for index in order]
    expected = [alone[index].mean_logprob for index in order]
    assert [heard.mean_logprob for heard in together] == pytest.approx(expected, abs=1e-4)


def test_words_are_the_text_in_order_of_time(alone: list[HeardChunk]) -> None:
    for heard, spoken in zip(alone, recordings(), strict=True):
        assert heard.words is not None
        assert " ".join(word.text for word in heard.words) == heard.text
        times = [time for word in heard.words for time in (word.start_seconds, word.end_seconds)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= spoken.seconds
        assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in heard.words)


def test_words_are_placed_where_they_are_said(model: Model, alone: list[HeardChunk]) -> None:
    """Shifted by silence, words move with the sound."""
    spoken = recordings()[3]
    shifted = np.concatenate([np.zeros(4 * SAMPLE_RATE, np.float32), spoken.samples])

    [heard] = _hear(model, [shifted], words=True)

    plain = {word.text.casefold(): word.end_seconds for word in alone[3].words or ()}
    moved = {word.text.casefold(): word.end_seconds for word in heard.words or ()}
    for text in ("married", "amiable", "woman,", "still", "respectable", "was."):
        assert moved[text] - plain[text] == pytest.approx(4.0, abs=0.25)


def test_words_are_given_only_where_they_are_wanted(model: Model) -> None:
    chunks = [to_pcm(spoken.samples) for spoken in recordings()[:2]]

    first, second = model.recognise(chunks, [None, None], [False, True])

    assert first.words is None
    assert second.words


def test_confidence_language_and_speech_are_reported(alone: list[HeardChunk]) -> None:
    for heard in alone:
        assert heard.mean_logprob is not None
        assert -0.6 < heard.mean_logprob < 0
        assert heard.no_speech_probability is not None
        assert heard.no_speech_probability < 0.1
        assert heard.language == "en"
        assert heard.warnings == ()
        assert heard.text == heard.text.strip()


def test_noise_is_known_as_no_speech(model: Model) -> None:
    hiss = np.random.default_rng(0).normal(size=5 * SAMPLE_RATE).astype(np.float32) * np.float32(0.01)

    [heard] = _hear(model, [hiss])

    assert heard.no_speech_probability is not None
    assert heard.no_speech_probability > 0.6


@pytest.mark.parametrize("length", [0, 1, 100, 399, 400, WINDOW_SAMPLES])
def test_chunks_of_any_length_up_to_a_window_are_heard(model: Model, length: int) -> None:
    chunk = np.resize(recordings()[0].samples, length).astype(np.float32)

    answers = _hear(model, [chunk, recordings()[4].samples], words=True)

    assert len(answers) == 2
    assert answers[0].words is not None


def test_an_empty_batch_has_no_answers(model: Model) -> None:
    assert _hear(model, []) == []


def test_a_chunk_longer_than_a_window_is_a_bug(model: Model) -> None:
    with pytest.raises(ValueError, match="longer than"):
        _hear(model, [np.zeros(WINDOW_SAMPLES + 1, np.float32)])


def test_a_faint_recording_is_heard_like_a_loud_one(model: Model) -> None:
    spoken = recordings()[0]

    [heard] = _hear(model, [spoken.samples * np.float32(0.01)])

    assert word_error_rate([spoken.text], [heard.text]) < 0.2


def test_a_loop_is_decoded_again_and_reported(
    model: Model, alone: list[HeardChunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the guards object to ordinary sentences here, so that the second decoding runs on sound that is known
    monkeypatch.setattr(invented, "objections", lambda *_: (WarningCode.REPETITION,))
    chunks = [spoken.samples for spoken in recordings()[:2]]

    answers = _hear(model, chunks, words=True)

    assert [heard.warnings for heard in answers] == [(WarningCode.REPETITION,)] * 2
    for heard, spoken in zip(answers, recordings(), strict=False):
        assert word_error_rate([spoken.text], [heard.text]) <= 0.45
        assert " ".join(word.text for word in heard.words or ()) == heard.text


def test_the_model_says_what_it_is(model: Model) -> None:
    info = model.info

    assert info.languages == ("en",)
    assert info.ref.name in {"ctranslate2", "whisper"}
    assert info.ref.quantization == (
        "int8" if isinstance(model, ctranslate2.CTranslate2Whisper) and _is_int8(model) else None
    )


def _is_int8(model: ctranslate2.CTranslate2Whisper) -> bool:
    return "int8" in cast("str", model._whisper.compute_type)


def test_both_engines_hear_the_same_with_the_same_weights() -> None:
    transformers = whisper.load(str(hf_tiny_en()), revision=None, device="cpu", compute_type="float32", threads=2)
    chunks = [spoken.samples for spoken in recordings()]

    first, second = _hear(transformers, chunks, words=True), _hear(_ct2("float32"), chunks, words=True)

    assert [heard.text for heard in first] == [heard.text for heard in second]
    assert [heard.mean_logprob for heard in first] == pytest.approx([heard.mean_logprob for heard in second], abs=0.02)
    for one, other in zip(first, second, strict=True):
        ends = [[word.end_seconds for word in heard.words or ()] for heard in (one, other)]
        assert ends[0] == pytest.approx(ends[1], abs=0.1)


def test_auto_means_int8_for_ctranslate2_on_a_cpu() -> None:
    assert _ct2("auto").info.ref.quantization == "int8"


def test_a_type_that_transformers_cannot_do_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="ctranslate2"):
        whisper.load("anything", revision=None, device="cpu", compute_type="int8", threads=1)


def test_the_converted_folder_is_made_once(tmp_path: Path) -> None:
    made = hf_tiny_en(tmp_path)
    before = (made / "model.safetensors").stat().st_mtime_ns

    assert hf_tiny_en(tmp_path) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("spoken", recordings()[:1], ids=lambda spoken: spoken.name)
def test_the_same_sound_gives_the_same_answer_every_time(model: Model, spoken: Spoken) -> None:
    first, second = (_hear(model, [spoken.samples], words=True)[0] for _ in range(2))

    assert (first.text, first.words, first.mean_logprob) == (second.text, second.words, second.mean_logprob)


@pytest.fixture(scope="module", params=["ctranslate2", "whisper"])
def multilingual(request: pytest.FixtureRequest) -> Model:
    if request.param == "ctranslate2":
        folder = str(ct2_as_if_multilingual())
        return ctranslate2.load(folder, revision=None, device="cpu", compute_type="float32", threads=2)
    folder = str(hf_as_if_multilingual())
    return whisper.load(folder, revision=None, device="cpu", compute_type="float32", threads=2)


def test_a_model_of_many_languages_names_them(multilingual: Model) -> None:
    languages = multilingual.info.languages

    assert languages is not None
    assert len(languages) > 90
    assert {"en", "de", "zh"} <= set(languages)


def test_chunks_of_one_batch_may_have_different_languages(multilingual: Model) -> None:
    spoken = recordings()[3]

    wished = multilingual.recognise([to_pcm(spoken.samples)] * 3, ["en", "de", None], [True, False, True])
    alone = [multilingual.recognise([to_pcm(spoken.samples)], [heard.language], [True])[0] for heard in wished]

    assert [heard.language for heard in wished[:2]] == ["en", "de"]
    assert wished[2].language in (multilingual.info.languages or ())
    assert [heard.text for heard in wished] == [heard.text for heard in alone]
    assert word_error_rate([spoken.text], [wished[0].text]) < 0.2


@pytest.mark.patient
def test_a_language_is_detected_alike_alone_and_in_a_batch(multilingual: Model) -> None:
    chunks = [to_pcm(spoken.samples) for spoken in recordings()[:3]]  # three tell, and it talks to its limit

    with _languages_told_apart(multilingual):
        together = multilingual.recognise(chunks, [None] * 3, [False] * 3)
        alone = [multilingual.recognise([chunk], [None], [False])[0] for chunk in chunks]

    assert [heard.language for heard in together] == [heard.language for heard in alone]
    assert [heard.text for heard in together] == [heard.text for heard in alone]


@contextmanager
def _languages_told_apart(model: Model) -> Iterator[None]:
    """English weights never learnt the symbols of languages: all are equally likely, and rounding would decide."""
    if not isinstance(model, whisper.TransformersWhisper):
        yield  # on a CPU it hears each chunk alone in any case
        return
    symbols = model._network.proj_out.weight.data
    before, ids = symbols.clone(), list(model._vocabulary.language_ids())
    noise = np.random.default_rng(0).normal(size=(len(ids), symbols.shape[1])) * 0.05
    symbols[ids] += torch.from_numpy(noise).to(symbols)
    yield
    symbols.copy_(before)


@pytest.mark.parametrize("engine", ["ctranslate2", "whisper"])
def test_a_prompt_steers_the_spelling_and_is_no_part_of_the_text(engine: str) -> None:
    terms = "A letter to Mr. Jon Dashwoode of Norland."
    told: Model
    if engine == "whisper":
        folder = str(hf_tiny_en())
        told = whisper.load(folder, revision=None, device="cpu", compute_type="float32", threads=2, prompt=terms)
    else:
        folder = str(ct2_tiny_en())
        told = ctranslate2.load(folder, revision=None, device="cpu", compute_type="float32", threads=2, prompt=terms)

    first, second = _hear(told, [recordings()[0].samples, recordings()[4].samples], words=True)

    assert first.text.startswith("And Mr. Jon Dashwoode had then leisure")
    assert word_error_rate([recordings()[4].text], [second.text]) < 0.1
    assert first.words is not None
    assert [word.text for word in first.words][:4] == ["And", "Mr.", "Jon", "Dashwoode"]
    assert min(word.confidence or 0.0 for word in first.words[2:4]) > 0.5
    times = [time for word in first.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)


def test_a_prompt_as_long_as_can_be_leaves_room_for_the_text() -> None:
    told = ctranslate2.load(
        str(ct2_tiny_en()), revision=None, device="cpu", compute_type="int8", threads=2, prompt="Mr. Dashwood. " * 200
    )

    [heard] = _hear(told, [recordings()[0].samples])

    assert heard.text.endswith("for them.")


def test_a_static_cache_hears_the_same_as_a_growing_one(alone: list[HeardChunk], model: Model) -> None:
    if not isinstance(model, whisper.TransformersWhisper):
        return
    model._cache = "static"
    try:
        [first, second] = _hear(model, [spoken.samples for spoken in recordings()[:2]])
    finally:
        model._cache = "dynamic"

    assert [first.text, second.text] == [heard.text for heard in alone[:2]]
    assert [first.tokens, second.tokens] == [heard.tokens for heard in alone[:2]]


def test_the_choice_of_a_cache_runs_both() -> None:
    config = WhisperConfig(
        vocab_size=51864, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=24,
        bos_token_id=50256, eos_token_id=50256, pad_token_id=50256, decoder_start_token_id=50257,
    )  # fmt: skip
    vocabulary = Vocabulary.read(hf_tiny_en() / "tokenizer.json", multilingual=False)
    network = WhisperForConditionalGeneration(config).eval()
    ref = EngineRef(name="whisper", model="made")
    tiny = whisper.TransformersWhisper(network, WhisperFeatureExtractor(), vocabulary, ref)

    tiny.choose_cache()

    assert tiny._cache in ("dynamic", "static")
