"""Which text is heard again, which hearing is kept, and what is dropped: the guards' decision table."""

from dataclasses import replace

import pytest

from consumer.core.hearing import HeardChunk
from consumer.core.invented import Decoded, guarded, is_invented, nobody_speaks, objections, repeats, too_many_words
from schemas.codes import WarningCode

SENTENCE = "And Mr. John Dashwood had then leisure to consider how much there might be in his power."
LOOP = "And then he said: " + "I'm sorry. " * 15


def _heard(
    text: str, *, no_speech: float = 0.05, mean_logprob: float = -0.2, tokens: int = 20, language: str = "en"
) -> HeardChunk:
    return HeardChunk(
        text=text, no_speech_probability=no_speech, mean_logprob=mean_logprob, tokens=tokens, language=language
    )


class Listener:
    """Hears again what it was told to, and remembers how it was asked."""

    def __init__(self, second: HeardChunk) -> None:
        self.second = second
        self.asked: list[int] = []

    def __call__(self, no_repeat_ngram: int) -> Decoded:
        self.asked.append(no_repeat_ngram)
        return self.second, [2]


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
    ("text", "no_speech", "mean_logprob", "tokens", "nobody"),
    [
        ("you", 0.95, -0.4, 2, True),
        ("Thank you.", 0.9, -0.3, 4, True),
        ("One whole sentence that nobody said.", 0.7, -1.4, 9, True),
        ("...", 0.1, -0.2, 2, True),
        ("Yes.", 0.65, -0.5, 3, False),
        ("One whole sentence over loud music.", 0.9, -0.4, 9, False),
    ],
)
def test_what_whisper_hears_in_noise_is_no_speech(
    text: str, no_speech: float, mean_logprob: float, tokens: int, *, nobody: bool
) -> None:
    heard = _heard(text, no_speech=no_speech, mean_logprob=mean_logprob, tokens=tokens)

    assert nobody_speaks(heard, 2.0) is nobody


@pytest.mark.parametrize(
    ("first", "second", "asked", "text", "warnings"),
    [
        pytest.param(_heard(SENTENCE), _heard("?"), [], SENTENCE, (), id="a sound text is believed"),
        pytest.param(
            _heard("Thank you.", no_speech=0.9, tokens=4), _heard("?"), [], "", ("text_dropped",), id="nobody speaks"
        ),
        pytest.param(_heard("...", no_speech=0.9), _heard("?"), [], "", (), id="no words, so none is dropped"),
        pytest.param(
            _heard(LOOP), _heard(SENTENCE, mean_logprob=-0.9), [3], SENTENCE, ("repetition",), id="a loop is broken"
        ),
        pytest.param(
            _heard(LOOP), _heard(LOOP), [3], "", ("repetition", "text_dropped"), id="a loop that stays is dropped"
        ),
        pytest.param(
            _heard(LOOP), _heard(""), [3], "", ("repetition", "text_dropped"), id="nothing is no better than a loop"
        ),
        pytest.param(
            _heard("a b c d " * 30, tokens=120),
            _heard("A few words."),
            [3],
            "A few words.",
            ("repetition", "too_many_words"),
            id="more than can be said",
        ),
        pytest.param(
            _heard(SENTENCE, mean_logprob=-1.2),
            _heard("And Mr. John.", mean_logprob=-0.8),
            [0],
            "And Mr. John.",
            ("unsure_words",),
            id="the likelier text is kept",
        ),
        pytest.param(
            _heard(SENTENCE, mean_logprob=-1.2),
            _heard("And Mr. John.", mean_logprob=-1.3),
            [0],
            SENTENCE,
            ("unsure_words",),
            id="also where it is the first",
        ),
        pytest.param(
            _heard("the", no_speech=0.4, mean_logprob=-2.4, tokens=2),
            _heard("and", no_speech=0.4, mean_logprob=-2.2, tokens=2),
            [],
            "",
            ("text_dropped",),
            id="a scrap for seconds of sound",
        ),
        pytest.param(
            _heard(SENTENCE, mean_logprob=-1.8),
            _heard(SENTENCE, mean_logprob=-1.7),
            [0],
            SENTENCE,
            ("unsure_words",),
            id="a sentence is no scrap",
        ),
    ],
)
def test_what_the_guards_do(
    first: HeardChunk, second: HeardChunk, asked: list[int], text: str, warnings: tuple[str, ...]
) -> None:
    listener = Listener(second)

    heard, tokens = guarded((first, [1]), 6.0, listener)

    assert (heard.text.strip(), heard.warnings) == (text.strip(), warnings)
    assert listener.asked == asked
    assert bool(tokens) == bool(text)


@pytest.mark.parametrize(("no_speech", "mean_logprob"), [(0.4, -2.0), (0.7, -0.6)])
def test_a_word_or_two_are_too_little_for_seconds_of_sound_if_a_sign_is_against_them(
    no_speech: float, mean_logprob: float
) -> None:
    heard = _heard("for you", no_speech=no_speech, mean_logprob=mean_logprob, tokens=3)

    assert is_invented(heard, sounding_seconds=20.0)
    assert not is_invented(heard, sounding_seconds=0.5)
    assert not is_invented(replace(heard, tokens=30), sounding_seconds=20.0)
    assert not is_invented(replace(heard, no_speech_probability=0.1, mean_logprob=-0.3), sounding_seconds=20.0)


def test_quick_speech_is_possible_and_quicker_is_not() -> None:
    assert not too_many_words(_heard("word " * 64), sounding_seconds=10.0)
    assert too_many_words(_heard("word " * 100), sounding_seconds=10.0)
    assert not too_many_words(_heard("Yes, of course."), sounding_seconds=0.2)


def test_where_a_language_has_no_spaces_letters_count() -> None:
    assert not too_many_words(_heard("字" * 120, language="zh"), sounding_seconds=10.0)
    assert too_many_words(_heard("字" * 300, language="zh"), sounding_seconds=10.0)


def test_without_likelihoods_nobody_objects_to_an_ordinary_text() -> None:
    assert objections(HeardChunk(text=SENTENCE, language="en"), 6.0) == ()
    assert not nobody_speaks(HeardChunk(text=SENTENCE), 6.0)


def test_every_code_of_a_guard_is_in_the_contract() -> None:
    assert {"repetition", "too_many_words", "unsure_words", "text_dropped"} <= set(WarningCode)
