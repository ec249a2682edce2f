"""How recordings are cut for Whisper."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.hearing import Span
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import Pause, find_pauses, frame_levels
from consumer.core.whisper import LONGEST_SAMPLES, WhisperFamily, cut
from tests.support.recordings import joined, recordings
from tests.support.sounds import sound

OVERLAP = 2 * SAMPLE_RATE


@st.composite
def _pauses(draw: st.DrawFn) -> tuple[list[Pause], int]:
    total = draw(st.integers(1, 200 * SAMPLE_RATE))
    edges = sorted(draw(st.lists(st.integers(0, total), max_size=60, unique=True)))
    return [Pause(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=False)], total


@given(_pauses())
def test_windows_cover_the_recording_and_end_in_pauses_or_overlap(made: tuple[list[Pause], int]) -> None:
    quiet, total = made

    spans = cut(quiet, total, OVERLAP)

    assert (spans[0].start, spans[-1].stop) == (0, total)
    assert all(0 < span.stop - span.start <= LONGEST_SAMPLES for span in spans)
    for left, right in pairwise(spans):
        assert left.start < right.start
        if right.start == left.stop:
            assert left.stop in {pause.middle for pause in quiet}
        else:
            assert left.stop - right.start == OVERLAP
            assert left.words
            assert right.words


def test_a_short_recording_is_one_window_without_word_times() -> None:
    spoken = joined(4, gap_seconds=0.3)

    [span] = WhisperFamily().plan(spoken.samples)

    assert span.stop - span.start > 0.95 * len(spoken.samples) - SAMPLE_RATE
    assert not span.words


def test_a_long_recording_is_cut_in_its_pauses_only() -> None:
    spoken = joined(24, gap_seconds=0)
    quiet = find_pauses(frame_levels(spoken.samples))

    spans = WhisperFamily().plan(spoken.samples)

    assert len(spans) > 3
    assert not any(span.words for span in spans)
    for left, right in pairwise(spans):
        assert left.stop == right.start
        assert any(pause.start < left.stop < pause.stop for pause in quiet)


def test_where_nobody_pauses_windows_overlap_and_ask_for_word_times() -> None:
    spans = cut([], 70 * SAMPLE_RATE, OVERLAP)

    assert [span.words for span in spans] == [True] * len(spans)
    assert [left.stop - right.start for left, right in pairwise(spans)] == [OVERLAP] * (len(spans) - 1)


def test_the_last_window_is_not_a_scrap() -> None:
    first, second = cut([], LONGEST_SAMPLES + 1600, OVERLAP)

    assert abs((first.stop - first.start) - (second.stop - second.start)) <= 1


def test_silence_is_left_out_and_everything_else_is_not() -> None:
    spoken = joined(2, gap_seconds=0)
    silence = np.zeros(100 * SAMPLE_RATE, np.float32)
    samples = np.concatenate([silence, spoken.samples, silence, spoken.samples, silence])

    spans = WhisperFamily().plan(samples)

    heard = sum(span.stop - span.start for span in spans)
    assert 2 * len(spoken.samples) <= heard <= 2 * len(spoken.samples) + len(spans) * SAMPLE_RATE
    covered = np.zeros(len(samples), bool)
    for span in spans:
        covered[span.start : span.stop] = True
    assert not np.abs(samples[~covered]).max() > 0


def test_a_silent_recording_has_no_windows() -> None:
    assert WhisperFamily().plan(np.zeros(90 * SAMPLE_RATE, np.float32)) == []
    assert WhisperFamily().plan(np.empty(0, np.float32)) == []


def test_word_times_are_asked_for_everywhere_when_they_are_published() -> None:
    assert all(span.words for span in WhisperFamily(word_times=True).plan(joined(24).samples))


def test_what_the_gate_leaves_out_is_in_no_chunk_and_all_else_that_sounds_is() -> None:
    parts, gaps = recordings(), (3, 40, 5, 8, 2.5)
    samples, gone, place = [], [], 0
    for part, gap in zip(parts, gaps, strict=True):
        silence = sound("faint noise")[: int(gap * SAMPLE_RATE)]
        silence = np.resize(silence, int(gap * SAMPLE_RATE))
        samples += [part.samples, silence]
        place += len(part.samples)
        first = -(-place // 160) * 160 + 4800
        gone.append((first, (place + len(silence)) // 160 * 160 - 4800))
        place += len(silence)
    whole = np.concatenate(samples)

    spans = WhisperFamily().plan(whole, tuple(gone))

    heard = np.zeros(len(whole), bool)
    for span in spans:
        assert sum(stop - start for start, stop in span.kept) <= LONGEST_SAMPLES
        assert span.words
        for start, stop in span.kept:
            assert not heard[start:stop].any()
            heard[start:stop] = True
    assert len(spans) == 1
    assert not any(heard[start:stop].any() for start, stop in gone)
    assert not (np.abs(whole[~heard]) > 0.05).any()


@given(st.data())
def test_windows_behind_a_gate_hold_each_sample_that_it_left_in(data: st.DataObject) -> None:
    frames = data.draw(st.integers(100, 12_000))
    edges = sorted(data.draw(st.lists(st.integers(0, frames), max_size=12, unique=True)))
    gone = tuple((a * 160, b * 160) for a, b in zip(edges[::2], edges[1::2], strict=False))
    samples = np.resize(np.array([0.1, -0.1], np.float32), frames * 160)

    spans = WhisperFamily().plan(samples, gone)

    times_heard = np.zeros(len(samples), int)
    for span in spans:
        assert sum(stop - start for start, stop in span.kept) <= LONGEST_SAMPLES
        for start, stop in span.kept:
            times_heard[start:stop] += 1
    wanted = np.ones(len(samples), bool)
    for start, stop in gone:
        wanted[start:stop] = False
    assert np.array_equal(times_heard > 0, wanted)
    assert times_heard.max(initial=0) <= 2


def test_hum_that_passed_the_gate_is_heard_and_so_is_all_that_sounds_where_there_is_none() -> None:
    hum = sound("hum")

    assert WhisperFamily().plan(hum, ()) == [Span(0, len(hum))]
    assert WhisperFamily().plan(hum) == [Span(0, len(hum))]


def test_speech_on_top_of_an_offset_is_heard_without_a_gate() -> None:
    spoken = recordings()[1].samples * np.float32(0.5) + np.float32(0.3)

    assert WhisperFamily().plan(spoken) == [Span(0, len(spoken))]


def test_cutting_and_merging_load_no_model_library() -> None:
    heavy = "{'torch', 'transformers', 'ctranslate2', 'faster_whisper'}"
    program = f"import sys, consumer.core.whisper; print(*{heavy} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""
