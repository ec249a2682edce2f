"""Subtitles: what stands on the screen, how long, and in which shape."""

from itertools import pairwise

import pytest

from consumer.core.subtitles import LINE_CHARACTERS, LINES, LONGEST_SECONDS, cues, srt
from schemas.models import EngineRef, Recognised, Segment, Word

WORDS = "and mister john dashwood had then leisure to consider how much there might be prudently in his power"


def heard(
    text: str = "", segments: list[Segment] | None = None, words: list[Word] | None = None, seconds: float = 10.0
) -> Recognised:
    engine = EngineRef(name="simulated", model="simulated")
    return Recognised(text=text, segments=segments or [], words=words, engine=engine, audio_seconds=seconds)


def spoken(text: str, *, seconds_each: float = 0.3, pause_before: dict[int, float] | None = None) -> list[Word]:
    words, now = [], 0.0
    for place, one in enumerate(text.split()):
        now += (pause_before or {}).get(place, 0.0)
        words.append(Word(start_seconds=now, end_seconds=now + seconds_each, text=one))
        now += seconds_each
    return words


def test_an_srt_file_numbers_its_cues_and_writes_times_with_a_comma() -> None:
    words = spoken("good morning everyone", pause_before={0: 3661.25, 2: 2.0})

    assert srt(heard(words=words)) == (
        "1\n01:01:01,250 --> 01:01:02,250\ngood morning\n\n2\n01:01:03,850 --> 01:01:04,850\neveryone\n"
    )


def test_no_words_give_an_empty_file() -> None:
    assert srt(heard()) == ""
    assert srt(heard(words=[])) == ""


@pytest.mark.parametrize("seconds_each", [0.1, 0.3, 2.5])
def test_every_word_is_shown_once_in_two_short_lines_and_a_few_seconds(seconds_each: float) -> None:
    shown = cues(heard(words=spoken(WORDS, seconds_each=seconds_each)))

    assert " ".join(cue.text for cue in shown) == WORDS
    assert all(len(cue.lines) <= LINES for cue in shown)
    assert all(len(line) <= LINE_CHARACTERS for cue in shown for line in cue.lines)
    assert all(cue.end_seconds - cue.start_seconds <= LONGEST_SECONDS + 1e-9 for cue in shown)
    assert all(left.end_seconds <= right.start_seconds for left, right in pairwise(shown))
    assert all(cue.start_seconds < cue.end_seconds for cue in shown)


def test_a_pause_begins_a_new_cue() -> None:
    shown = cues(heard(words=spoken("one two three", pause_before={1: 1.0})))

    assert [cue.text for cue in shown] == ["one", "two three"]


def test_a_sentence_ends_its_cue_once_it_fills_a_line_but_an_abbreviation_does_not() -> None:
    shown = cues(
        heard(words=spoken("Mr. Dashwood was not an ill disposed young man. He might even have been amiable."))
    )

    assert [cue.text for cue in shown] == [
        "Mr. Dashwood was not an ill disposed young man.",
        "He might even have been amiable.",
    ]


def test_without_word_times_the_words_share_the_time_of_their_segment() -> None:
    segment = Segment(start_seconds=10.0, end_seconds=20.0, text=WORDS)

    shown = cues(heard(segments=[segment], seconds=30.0))

    assert len(shown) > 1
    assert " ".join(cue.text for cue in shown) == WORDS
    assert shown[0].start_seconds == 10.0
    assert shown[-1].end_seconds == pytest.approx(20.0)


def test_a_text_without_segments_spans_the_recording() -> None:
    (cue,) = cues(heard(text="hello", seconds=4.0))

    assert cue.text == "hello"
    assert (cue.start_seconds, cue.end_seconds) == pytest.approx((0.0, 4.0))


def test_a_language_without_spaces_is_cut_too_and_gets_none() -> None:
    text = "语音识别把录音变成文字" * 20

    shown = cues(heard(segments=[Segment(start_seconds=0.0, end_seconds=28.0, text=text)], seconds=28.0))

    assert "".join(cue.text for cue in shown) == text
    assert all(len(cue.text) <= LINE_CHARACTERS for cue in shown)


def test_overlapping_words_never_make_cues_overlap() -> None:
    words = [Word(start_seconds=place * 1.0, end_seconds=place * 1.0 + 1.8, text="w" * 40) for place in range(6)]

    shown = cues(heard(words=words))

    assert all(left.end_seconds <= right.start_seconds for left, right in pairwise(shown))
