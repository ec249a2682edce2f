"""What counts as a loop, and how tokens become words."""

import numpy as np
import pytest

from consumer.engines.whisper_text import Vocabulary, in_window, mel_frames, repeats
from tests.support.whisper_weights import ct2_tiny_en


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(ct2_tiny_en() / "tokenizer.json", multilingual=False)


@pytest.mark.parametrize("loop", ["I'm sorry. ", "the ", "He was, and then he was not. ", "so, so, "])
def test_a_phrase_over_and_over_is_a_loop(loop: str) -> None:
    assert repeats("And then he said: " + loop * 40)


def test_sentences_that_come_back_are_no_loop() -> None:
    first = "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do. "
    second = "Had he married a more amiable woman, he might have been made still more respectable than he was. "

    assert not repeats((first + second) * 2 + first)
    assert not repeats("No, no, no, no!")
    assert not repeats("")


def test_a_long_text_is_judged_quickly() -> None:
    assert not repeats(" ".join(str(number) for number in range(2000)))


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
