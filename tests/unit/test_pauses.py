"""Pauses and silence: what counts as quiet in which recording."""

import numpy as np
import pytest

from consumer.core.hearing import Samples
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import FAINTEST_DB, FRAME_SAMPLES, find_pauses, frame_levels


def _babble(seconds: float, *, seed: int = 0, level: float = 0.1) -> Samples:
    """Noise in syllables: loud 150 ms, softer 50 ms."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=round(seconds * SAMPLE_RATE))
    syllables = np.where(np.arange(len(noise)) % 3200 < 2400, 1.0, 0.3)
    return (noise * syllables * level).astype(np.float32)


def _hiss(seconds: float, level: float) -> Samples:
    return (np.random.default_rng(7).normal(size=round(seconds * SAMPLE_RATE)) * level).astype(np.float32)


def test_a_pause_is_found_where_it_is_whatever_the_loudness_of_the_recording() -> None:
    for loudness in (1.0, 0.05):
        samples = np.concatenate([_babble(5), _hiss(0.4, 0.001), _babble(5, seed=1)]) * np.float32(loudness)

        [pause] = find_pauses(frame_levels(samples))

        assert pause.start / SAMPLE_RATE == pytest.approx(5, abs=0.02)
        assert pause.seconds == pytest.approx(0.4, abs=0.03)


def test_a_pause_in_a_noisy_room_is_found_by_its_contrast_to_the_speech() -> None:
    samples = np.concatenate([_babble(5), np.zeros(6400, np.float32), _babble(5, seed=1)]) + _hiss(10.4, 0.01)

    assert [round(pause.seconds, 1) for pause in find_pauses(frame_levels(samples))] == [0.4]


def test_a_stop_between_syllables_is_no_pause() -> None:
    samples = np.concatenate([_babble(5), _hiss(0.15, 0.001), _babble(5, seed=1)])

    assert find_pauses(frame_levels(samples)) == []


def test_unbroken_sound_has_no_pauses() -> None:
    assert find_pauses(frame_levels(_babble(40))) == []
    assert find_pauses(frame_levels(_hiss(40, 0.1))) == []


def test_digital_silence_between_recordings_does_not_hide_the_pauses_within_them() -> None:
    gap = np.zeros(2 * SAMPLE_RATE, np.float32)
    spoken = np.concatenate([_babble(5), _hiss(0.4, 0.001), _babble(5, seed=1)])
    samples = np.concatenate([gap, spoken, gap, spoken, gap])

    assert len(find_pauses(frame_levels(samples))) == 5


@pytest.mark.parametrize("seconds", [0, 1, 159, 160, 161, 16_000])
def test_every_sample_belongs_to_one_frame(seconds: int) -> None:
    samples = _babble(1)[:seconds]

    levels = frame_levels(samples)

    assert len(levels) == -(-len(samples) // FRAME_SAMPLES)
    assert np.isfinite(levels).all()
    if len(samples):
        assert levels[-1] == pytest.approx(10 * np.log10(np.mean(samples[(len(levels) - 1) * 160 :] ** 2)), abs=0.01)


def test_reading_in_blocks_changes_nothing() -> None:
    samples = _babble(150)

    levels = frame_levels(samples)

    assert np.array_equal(levels[6000:6100], frame_levels(samples[6000 * 160 : 6100 * 160]))


@pytest.mark.parametrize("offset", [8 / 32768, 0.1])
def test_a_line_that_does_not_move_is_silent_at_any_offset(offset: float) -> None:
    levels = frame_levels(np.full(SAMPLE_RATE, offset, np.float32))

    assert (levels == FAINTEST_DB).all()
