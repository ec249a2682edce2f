"""Whole recordings of minutes: planned, heard by a real model, merged."""

from itertools import pairwise

import numpy as np
import pytest

from consumer.core.hearing import Model, Samples, Span, to_pcm
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import find_pauses, frame_levels
from consumer.core.whisper import WINDOW_SAMPLES, WhisperFamily
from consumer.engines import ctranslate2
from schemas.codes import WarningCode
from schemas.models import Recognised
from tests.support.recordings import Spoken, joined, recordings, word_error_rate, word_errors
from tests.support.whisper_weights import ct2_tiny_en

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> Model:
    return ctranslate2.load(str(ct2_tiny_en()), revision=None, device="cpu", compute_type="int8", threads=2)


def _hear(model: Model, samples: Samples, spans: list[Span], family: WhisperFamily) -> Recognised:
    chunks = [to_pcm(samples[span.start : span.stop]) for span in spans]
    heard = model.recognise(chunks, [None] * len(spans), [span.words for span in spans])
    return family.merge(spans, heard, model.info, len(samples) / SAMPLE_RATE)


def _transcribed(model: Model, samples: Samples, **options: bool) -> Recognised:
    family = WhisperFamily(**options)
    return _hear(model, samples, family.plan(samples), family)


def _blind(samples: Samples) -> list[Span]:
    return [Span(start, min(start + WINDOW_SAMPLES, len(samples))) for start in range(0, len(samples), WINDOW_SAMPLES)]


def _without_pauses(samples: Samples) -> Samples:
    """Every quiet stretch of 100 ms taken out, and a low noise over what is left: nobody pauses any more."""
    keep = np.ones(len(samples), bool)
    for pause in find_pauses(frame_levels(samples), minimum_seconds=0.1):
        keep[pause.start : pause.stop] = False
    breathless = samples[keep]
    noise = np.random.default_rng(3).normal(size=len(breathless)) * 0.003
    return (breathless + noise).astype(np.float32)


@pytest.mark.parametrize(("count", "gap_seconds"), [(14, 0.0), (14, 0.5), (26, 0.0)])
def test_a_long_recording_is_heard_as_well_as_its_parts(model: Model, count: int, gap_seconds: float) -> None:
    spoken = joined(count, gap_seconds=gap_seconds, seed=count)
    parts = [
        heard.text for heard in model.recognise([to_pcm(one.samples) for one in recordings()], [None] * 5, [False] * 5)
    ]

    merged = _transcribed(model, spoken.samples)

    in_parts = word_error_rate([one.text for one in recordings()], parts)
    assert spoken.seconds > 60
    assert merged.warnings == []
    assert word_error_rate([spoken.text], [merged.text]) <= in_parts + 0.01


def test_cutting_in_pauses_beats_blind_cuts(model: Model) -> None:
    family = WhisperFamily()
    spoken = joined(26, gap_seconds=0)

    merged = _transcribed(model, spoken.samples)
    blind = _hear(model, spoken.samples, _blind(spoken.samples), family)

    assert word_errors([spoken.text], [merged.text])[0] <= word_errors([spoken.text], [blind.text])[0]


def test_where_nobody_pauses_for_two_minutes_no_word_is_lost_or_doubled_at_a_seam(model: Model) -> None:
    family = WhisperFamily()
    spoken = joined(30, gap_seconds=0, seed=4)
    samples = _without_pauses(spoken.samples)
    spans = family.plan(samples)

    merged = _hear(model, samples, spans, family)

    assert sum(right.start < left.stop for left, right in pairwise(spans)) >= 2
    assert WarningCode.REPETITION not in merged.warnings
    assert word_error_rate([spoken.text], [merged.text]) < 0.12
    # sentences come back: one that a seam lost or doubled would change their number
    told = merged.text.casefold()
    for sentence, key in ((0, "john dashwood"), (3, "more respectable"), (2, "rather selfish")):
        assert told.count(key) == pytest.approx(spoken.text.count(_reference(sentence, key)), abs=1)


def _reference(index: int, key: str) -> str:
    assert key in recordings()[index].text
    return key


def test_segments_and_words_lie_in_the_recording_in_order(model: Model) -> None:
    spoken = joined(14, gap_seconds=0.5)

    merged = _transcribed(model, spoken.samples, word_times=True)

    assert merged.words is not None
    assert " ".join(word.text for word in merged.words) == merged.text
    assert " ".join(segment.text for segment in merged.segments) == merged.text
    ends = [segment.end_seconds for segment in merged.segments]
    assert ends == sorted(ends)
    assert ends[-1] <= spoken.seconds
    starts = [word.start_seconds for word in merged.words]
    assert starts == sorted(starts)
    assert merged.confidence is not None
    assert 0.5 < merged.confidence < 1


@pytest.mark.parametrize("made", ["silence", "hiss", "room"])
def test_where_nobody_speaks_there_is_no_text(model: Model, made: str) -> None:
    room = np.tile(recordings()[0].samples[-3000:], 60)
    samples = {
        "silence": np.zeros(40 * SAMPLE_RATE, np.float32),
        "hiss": (np.random.default_rng(5).normal(size=40 * SAMPLE_RATE) * 0.01).astype(np.float32),
        "room": room,
    }[made]

    merged = _transcribed(model, samples)

    # there is no gate here: what is not silent is heard, and what comes of it is dropped
    dropped = [] if made == "silence" else [WarningCode.TEXT_DROPPED]
    assert (merged.text, merged.warnings) == ("", [*dropped, WarningCode.NO_SPEECH])


def test_silence_of_a_minute_between_sentences_adds_no_words(model: Model) -> None:
    first, second = recordings()[0], recordings()[4]
    silence = np.zeros(60 * SAMPLE_RATE, np.float32)

    merged = _transcribed(model, np.concatenate([first.samples, silence, second.samples]))

    assert word_error_rate([f"{first.text} {second.text}"], [merged.text]) < 0.1
    assert len(merged.segments) == 2
    assert merged.segments[1].start_seconds > 60


@pytest.mark.parametrize("length", [0, 1, 200, 399])
def test_a_recording_shorter_than_a_frame_has_no_text(model: Model, length: int) -> None:
    assert _transcribed(model, recordings()[0].samples[20_000 : 20_000 + length]).text == ""


def test_a_clip_cut_off_at_thirty_seconds_is_heard_to_its_end(model: Model) -> None:
    whole: Spoken = joined(12, gap_seconds=0, seed=2)

    merged = _transcribed(model, whole.samples[:WINDOW_SAMPLES])

    assert merged.segments[-1].end_seconds > 29
    assert len(merged.text.split()) > 65
