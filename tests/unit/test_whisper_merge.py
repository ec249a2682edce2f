"""One text of what was heard in several windows: no word lost, none doubled."""

from dataclasses import replace
from itertools import pairwise
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.hearing import HeardChunk, HeardWord, ModelInfo, Span
from consumer.core.model import SAMPLE_RATE
from consumer.core.whisper import WhisperFamily
from schemas.codes import WarningCode
from schemas.models import EngineRef

INFO = ModelInfo(ref=EngineRef(name="ctranslate2", model="tiny.en"), languages=("en",))
FAMILY = WhisperFamily()
OVERLAP_SECONDS = 2.0


def _span(start: float, stop: float, *, words: bool = False) -> Span:
    return Span(round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE), words=words)


def _heard(words: list[HeardWord], **fields: float) -> HeardChunk:
    chunk = HeardChunk(
        text=" ".join(word.text for word in words), words=tuple(words), mean_logprob=-0.1, tokens=10, language="en"
    )
    return replace(chunk, **fields)  # type: ignore[arg-type]


def _text(text: str, **fields: object) -> HeardChunk:
    return replace(HeardChunk(text=text, mean_logprob=-0.1, tokens=10, language="en"), **fields)  # type: ignore[arg-type]


@st.composite
def _overheard(draw: st.DrawFn) -> tuple[list[str], list[Span], list[HeardChunk]]:
    """What was truly said, and how windows that overlap hear it: words that an edge cuts are garbled or lost, and
    word times wander."""
    vocabulary = st.sampled_from(["no", "yes", "and", "the", "consider", "him", "respectable", "young"])
    said: list[HeardWord] = []
    clock = 0.0
    for text in draw(st.lists(vocabulary, min_size=10, max_size=60)):
        clock += draw(st.floats(0.0, 0.3))
        end = clock + draw(st.floats(0.2, 0.6))
        said.append(HeardWord(text, clock, end, 0.9))
        clock = end
    total, length = clock, draw(st.floats(4.5, 9.0))
    spans, start = [], 0.0
    while total - start > length:
        spans.append(_span(start, start + length, words=True))
        start += length - OVERLAP_SECONDS
    spans.append(_span(start, total + 0.1, words=True))
    return [word.text for word in said], spans, [draw(_in_window(said, span)) for span in spans]


@st.composite
def _in_window(draw: st.DrawFn, said: list[HeardWord], span: Span) -> HeardChunk:
    start, stop = span.start / SAMPLE_RATE, span.stop / SAMPLE_RATE
    words: list[HeardWord] = []
    for word in said:
        if word.end_seconds <= start or word.start_seconds >= stop:
            continue
        text = word.text
        if word.start_seconds < start or word.end_seconds > stop:
            text = draw(st.sampled_from(["", "uh", "mm-hm."]))
        shift = draw(st.floats(-0.06, 0.06))
        begin = min(max(word.start_seconds - start + shift, 0.0), stop - start)
        end = min(max(word.end_seconds - start + shift, begin), stop - start)
        if text:
            words.append(HeardWord(text, begin, end, 0.9))
    return _heard(words)


@given(_overheard())
def test_no_word_is_lost_or_doubled_where_windows_overlap(
    made: tuple[list[str], list[Span], list[HeardChunk]],
) -> None:
    said, spans, heard = made

    merged = FAMILY.merge(spans, heard, INFO, spans[-1].stop / SAMPLE_RATE)

    assert merged.text.split() == said
    assert merged.words is not None
    assert [word.text for word in merged.words] == said


@given(_overheard())
def test_times_never_run_backwards(made: tuple[list[str], list[Span], list[HeardChunk]]) -> None:
    _, spans, heard = made

    merged = FAMILY.merge(spans, heard, INFO, spans[-1].stop / SAMPLE_RATE)

    assert merged.words is not None
    for left, right in pairwise(merged.segments):
        assert left.start_seconds <= left.end_seconds <= right.start_seconds <= right.end_seconds
    for earlier, later in pairwise(merged.words):
        assert earlier.start_seconds <= earlier.end_seconds
        assert earlier.end_seconds <= later.end_seconds + 0.15


def test_windows_that_meet_in_a_pause_are_joined_with_one_space() -> None:
    spans = [_span(0, 20), _span(20, 45)]

    merged = FAMILY.merge(spans, [_text(" He was. "), _text("She was.")], INFO, 45.0)

    assert merged.text == "He was. She was."
    assert [(one.start_seconds, one.end_seconds, one.text) for one in merged.segments] == [
        (0, 20, "He was."),
        (20, 45, "She was."),
    ]
    assert merged.words is None
    assert merged.warnings == []


def test_windows_that_disagree_where_they_overlap_say_so() -> None:
    spans = [_span(0, 10, words=True), _span(8, 18, words=True)]
    left = _heard([HeardWord("one", 1, 2), HeardWord("two", 8.7, 9.0), HeardWord("three", 9.1, 9.4)])
    right = _heard([HeardWord("zwei", 0.7, 1.0), HeardWord("drei", 1.1, 1.4), HeardWord("four", 4, 5)])

    merged = FAMILY.merge(spans, [left, right], INFO, 18.0)

    assert merged.warnings == [WarningCode.SEAM_UNCERTAIN]
    assert merged.text.split()[0] == "one"
    assert merged.text.split()[-1] == "four"


def test_windows_that_agree_but_for_case_and_commas_are_certain() -> None:
    spans = [_span(0, 10, words=True), _span(8, 18, words=True)]
    left = _heard([HeardWord("He", 1, 2), HeardWord("was,", 8.7, 9.0), HeardWord("then,", 9.1, 9.4)])
    right = _heard([HeardWord("Was", 0.7, 1.0), HeardWord("then", 1.1, 1.4), HeardWord("four.", 4, 5)])

    merged = FAMILY.merge(spans, [left, right], INFO, 18.0)

    assert (merged.text, merged.warnings) == ("He was, then four.", [])


@pytest.mark.parametrize("deaf", ["left", "right"])
def test_what_only_one_of_two_overlapping_windows_heard_is_kept(deaf: str) -> None:
    spans = [_span(0, 10, words=True), _span(8, 18, words=True)]
    left = _heard([HeardWord("he", 8.3, 8.5), HeardWord("was", 9.1, 9.4)])
    right = _heard([HeardWord("he", 0.3, 0.5), HeardWord("was", 1.1, 1.4)])
    nothing = _text("", no_speech_probability=0.95, tokens=2)
    heard = [nothing, right] if deaf == "left" else [left, nothing]

    merged = FAMILY.merge(spans, heard, INFO, 18.0)

    assert merged.text == "he was"
    assert merged.warnings == [WarningCode.SEAM_UNCERTAIN]


def test_confidence_is_weighted_by_tokens() -> None:
    heard = [_text("a", mean_logprob=-1.0, tokens=1), _text("b", mean_logprob=-0.1, tokens=9)]

    merged = FAMILY.merge([_span(0, 10), _span(10, 20)], heard, INFO, 20.0)

    assert merged.confidence == pytest.approx(exp(-0.19))


def test_a_recording_without_windows_has_no_text_and_says_why() -> None:
    merged = FAMILY.merge([], [], INFO, 60.0)

    assert (merged.text, merged.segments, merged.confidence) == ("", [], None)
    assert merged.warnings == [WarningCode.NO_SPEECH]
    assert merged.audio_seconds == 60.0


def test_a_window_without_words_adds_nothing() -> None:
    spans = [_span(0, 9), _span(9, 12)]

    merged = FAMILY.merge(spans, [_text("..."), _text("One.")], INFO, 12.0)

    assert (merged.text, len(merged.segments), merged.warnings) == ("One.", 1, [])


def test_words_about_something_left_out_lie_on_either_side_of_it() -> None:
    span = replace(_span(10, 40, words=True), left_out=((14 * SAMPLE_RATE, 36 * SAMPLE_RATE),))
    words = [HeardWord("He", 1, 2), HeardWord("was", 3.5, 4.2), HeardWord("not.", 4.1, 5.0), HeardWord("She", 6, 9)]

    merged = FAMILY.merge([span], [_heard(words)], INFO, 40.0)

    assert merged.words is not None
    assert [(word.start_seconds, word.end_seconds) for word in merged.words] == [
        (11, 12),
        (13.5, 14),
        (36.1, 37),
        (38, 40),
    ]
    assert [(one.start_seconds, one.end_seconds, one.text) for one in merged.segments] == [
        (11, 14, "He was"),
        (36.1, 40, "not. She"),
    ]
    assert merged.text == "He was not. She"


def test_the_language_is_that_of_most_tokens() -> None:
    heard = [_text("eins zwei drei", language="de", tokens=9), _text("one", language="en", tokens=2)]
    many = replace(INFO, languages=("en", "de"))

    assert FAMILY.merge([_span(0, 9), _span(9, 12)], heard, many, 12.0).language == "de"
    assert FAMILY.merge([_span(0, 9), _span(9, 12)], heard, INFO, 12.0).language == "en"


def test_warnings_of_windows_are_passed_on_once() -> None:
    heard = [_text("a b", warnings=("repetition",)), _text("c d", warnings=("repetition",))]

    assert FAMILY.merge([_span(0, 9), _span(9, 12)], heard, INFO, 12.0).warnings == ["repetition"]


def test_words_are_in_the_seconds_of_the_recording() -> None:
    merged = FAMILY.merge([_span(100, 110, words=True)], [_heard([HeardWord("He", 1, 2, 0.5)])], INFO, 110.0)

    assert merged.words is not None
    assert [(word.start_seconds, word.end_seconds, word.confidence) for word in merged.words] == [(101, 102, 0.5)]
    assert (merged.segments[0].start_seconds, merged.segments[0].end_seconds) == (101, 102)


def test_overlapping_windows_without_word_times_are_a_bug() -> None:
    with pytest.raises(ValueError, match="this is a bug"):
        FAMILY.merge([_span(0, 10), _span(8, 18)], [_text("a"), _text("b")], INFO, 18.0)


def test_a_language_without_spaces_gets_none_at_a_seam() -> None:
    spans = [_span(0, 10, words=True), _span(8, 18, words=True)]
    left = replace(_heard([HeardWord("你", 1, 2), HeardWord("好", 8.8, 9.0), HeardWord("嗯", 9.6, 9.9)]), language="zh")
    right = replace(_heard([HeardWord("好", 0.8, 1.0), HeardWord("吗", 4, 5)]), language="zh")

    merged = FAMILY.merge(spans, [left, right], replace(INFO, languages=("en", "zh")), 18.0)

    assert [one.text for one in merged.segments] == ["你好", "吗"]
