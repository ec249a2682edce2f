"""The silence gate's decisions: what energy is sure of, and what is left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.hearing import Span, Stretches, to_samples, without
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import FRAME_SAMPLES, frame_levels, sounding_seconds
from consumer.core.silence import ByEnergy, by_energy, left_out
from tests.support.recordings import joined, recordings
from tests.support.sounds import sound


def test_energy_alone_is_sure_of_digital_silence() -> None:
    energy = by_energy(frame_levels(sound("silence")))

    assert energy.doubtful == ()
    assert left_out(energy, (), 20 * SAMPLE_RATE) == ((0, 20 * SAMPLE_RATE),)


@pytest.mark.parametrize("name", ["white noise", "faint noise", "hum", "tone", "chords", "melody"])
def test_energy_alone_is_unsure_of_hiss_hum_and_tones(name: str) -> None:
    assert by_energy(frame_levels(sound(name))).doubtful == ((0, 20 * SAMPLE_RATE),)


def test_plain_speech_needs_no_voice_detector() -> None:
    spoken = joined(20, gap_seconds=0.5)

    energy = by_energy(frame_levels(spoken.samples))

    assert sum(stop - start for start, stop in energy.doubtful) < 0.02 * len(spoken.samples)


def test_a_faint_voice_behind_a_loud_one_is_for_the_detector_to_find() -> None:
    loud, faint = recordings()[0].samples, recordings()[4].samples * np.float32(0.01)
    samples = np.concatenate([loud, faint])

    energy = by_energy(frame_levels(samples))

    asked = np.zeros(len(samples), bool)
    for start, stop in energy.doubtful:
        asked[start:stop] = True
    assert asked[len(loud) :].mean() > 0.9


@pytest.mark.parametrize("idle", [0.0, 8 / 32768])
def test_a_dead_line_before_a_word_is_no_part_of_what_the_detector_hears(idle: float) -> None:
    word = recordings()[3].samples[int(0.4 * SAMPLE_RATE) : int(0.8 * SAMPLE_RATE)]
    samples = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), word, np.zeros(SAMPLE_RATE, np.float32)]) + idle

    energy = by_energy(frame_levels(samples.astype(np.float32)))

    assert energy.doubtful == ((SAMPLE_RATE, SAMPLE_RATE + len(word)),)


@st.composite
def _sorted(draw: st.DrawFn) -> tuple[ByEnergy, Stretches, int]:
    frames = draw(st.integers(1, 3000))
    edges = sorted(draw(st.lists(st.integers(0, frames), max_size=20, unique=True)))
    speech = np.zeros(frames, bool)
    for start, stop in zip(edges[::4], edges[1::4], strict=False):
        speech[start:stop] = True
    voices = tuple((a * FRAME_SAMPLES, b * FRAME_SAMPLES) for a, b in zip(edges[2::4], edges[3::4], strict=False))
    total = (frames - 1) * FRAME_SAMPLES + draw(st.integers(1, FRAME_SAMPLES))
    return ByEnergy(speech, ()), voices, total


@given(_sorted())
def test_nothing_near_speech_is_left_out_and_all_long_silence_is(made: tuple[ByEnergy, Stretches, int]) -> None:
    energy, voices, total = made
    spoken = np.repeat(energy.speech, FRAME_SAMPLES)[:total]
    for start, stop in voices:
        spoken[start:stop] = True

    gone = left_out(energy, voices, total)

    if not spoken.any():
        assert gone == ((0, total),)
        return
    margin = int(0.3 * SAMPLE_RATE)
    dropped = np.zeros(total, bool)
    for start, stop in gone:
        assert not spoken[max(0, start - margin) : stop + margin].any()
        dropped[start:stop] = True
    silent = 0
    for sample in (spoken | dropped)[::FRAME_SAMPLES]:
        silent = 0 if sample else silent + 1
        assert silent * FRAME_SAMPLES < 2 * SAMPLE_RATE


@given(st.lists(st.integers(0, 1000), max_size=12, unique=True), st.integers(0, 1000), st.integers(0, 1000))
def test_what_is_kept_of_a_span_is_all_that_is_not_left_out(edges: list[int], one: int, other: int) -> None:
    start, stop = sorted((one, other))
    edges.sort()
    gone = tuple(zip(edges[::2], edges[1::2], strict=False))

    kept = Span(start, stop, left_out=gone).kept

    wanted = set(range(start, stop)) - {place for first, last in gone for place in range(first, last)}
    assert [place for first, last in kept for place in range(first, last)] == sorted(wanted)
    assert without(start, stop, ()) == (((start, stop),) if start < stop else ())


def test_integers_are_as_loud_to_samples() -> None:
    samples = recordings()[0].samples
    integers = np.round(samples * (1 << 15)).astype(np.int16)

    assert to_samples(integers) == pytest.approx(samples, abs=1e-4)
    loud = frame_levels(samples) > -60
    assert frame_levels(integers)[loud] == pytest.approx(frame_levels(samples)[loud], abs=0.5)


def test_time_in_which_something_can_be_said_leaves_out_the_silence_beside_it() -> None:
    word = sound("tone")[: SAMPLE_RATE // 2]
    silence = np.zeros(9 * SAMPLE_RATE, np.float32)

    assert sounding_seconds(frame_levels(np.concatenate([silence, word, silence]))) == pytest.approx(0.5, abs=0.02)
    assert sounding_seconds(frame_levels(silence)) == 0
    assert sounding_seconds(frame_levels(silence[:0])) == 0
