"""What a Whisper model is asked with, and how tokens become words."""

import numpy as np
import pytest

from consumer.engines.whisper_text import Vocabulary, in_window, mel_frames
from tests.support.whisper_weights import ct2_tiny_en


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(ct2_tiny_en() / "tokenizer.json", multilingual=False)


@pytest.mark.parametrize(
    "text",
    ["He was not an ill-disposed young man.", "\"Well,\" he said, 'no'; isn't it?", "Naïve café — 21%, $5.00!", "a"],
)
def test_words_are_what_stands_between_spaces(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenizer.encode(" " + text, add_special_tokens=False).ids
    path = np.stack([np.arange(len(tokens) + 1)] * 2, axis=1)

    words = vocabulary.words(tokens, "en", path, [0.5] * len(tokens), audio_seconds=60.0)

    assert " ".join(word.text for word in words) == text
    assert words[0].start_seconds == 0.0
    assert words[-1].end_seconds <= len(tokens) * 0.02 + 1e-9
    assert all(word.confidence == 0.5 for word in words)


def test_word_times_stay_within_the_sound(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenizer.encode(" He was not", add_special_tokens=False).ids
    path = np.array([[index, position] for index, position in enumerate([-1, 10, 500, 1400])])

    words = vocabulary.words(tokens, "en", path, [0.5] * 3, audio_seconds=1.0)

    assert [(word.start_seconds, word.end_seconds) for word in words] == [(0.0, 0.2), (0.2, 1.0), (1.0, 1.0)]


def test_a_window_is_the_chunk_and_then_silence() -> None:
    window = in_window(np.ones(100, np.float32))

    assert window.shape == (480_000,)
    assert window[:100].all()
    assert not window[100:].any()
    assert [mel_frames(np.empty(length, np.float32)) for length in (0, 160, 16_000, 480_000)] == [2, 2, 100, 3000]


def test_terms_go_before_the_question_and_only_the_last_of_too_many_count() -> None:
    path = ct2_tiny_en() / "tokenizer.json"
    plain = Vocabulary.read(path, multilingual=False)
    told = Vocabulary.read(path, multilingual=False, terms=" Anne Elliot. ")
    told_much = Vocabulary.read(path, multilingual=False, terms="Kellynch " * 500 + "Uppercross")

    assert plain.before() == Vocabulary.read(path, multilingual=False, terms="  ").before() == []
    assert told.text(told.before()[1:]) == "Anne Elliot."
    assert told.before()[0] == told.tokenizer.token_to_id("<|startofprev|>")
    assert len(told_much.before()) == 224
    assert told_much.text(told_much.before()[1:]).endswith("Uppercross")
