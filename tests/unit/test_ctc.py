"""CTC over whole recordings: collapsing, words with times, cutting, and joining without a trace."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core import ctc
from consumer.core.ctc import CtcFamily, collapse, words_of
from consumer.core.frames import frame_count
from consumer.core.hearing import HeardChunk, ModelInfo, Samples, Span
from consumer.core.model import SAMPLE_RATE
from schemas.models import EngineRef

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "H", "L", "O", "W", "R", "D")
INFO = ModelInfo(EngineRef(name="ctc", model="m"), ("en",), VOCABULARY, blank_id=0, word_delimiter="|")
IDS = {"_": 0, "^": 1, "?": 3, **{symbol: index for index, symbol in enumerate(VOCABULARY) if len(symbol) == 1}}


def frames(written: str) -> np.ndarray:
    """Frame ids from letters; ``_`` is the blank, ``^`` the symbol <s>, ``?`` the symbol <unk>."""
    return np.array([IDS[letter] for letter in written], np.int32)


def text_of(written: str) -> str:
    ids = frames(written)
    return " ".join(word.text for word in words_of(ids, np.ones(ids.size, np.float32), INFO, 1e9))


def heard(ids: np.ndarray, confidence: Samples | None = None) -> HeardChunk:
    return HeardChunk(ids, np.ones(ids.size, np.float32) if confidence is None else confidence)


def test_double_letters_survive() -> None:
    assert text_of("HH_EL_LLO") == "HELLO"
    # the way that loses them: specials, the blank among them, dropped before equal neighbours are joined
    without_blanks = frames("HH_EL_LLO")
    without_blanks = without_blanks[without_blanks != INFO.blank_id]
    assert "".join(VOCABULARY[index] for index in collapse(without_blanks, INFO.blank_id).ids) == "HELO"


def test_specials_are_dropped_after_equal_neighbours_were_joined() -> None:
    assert text_of("^HE?L?LO") == "HELLO"
    assert text_of("L^L") == "LL"


def test_delimiters_part_words_and_nothing_else_does() -> None:
    assert text_of("||HE||_|LLO__WO|") == "HE LOWO"
    assert text_of("H_E____________L") == "HEL"
    assert text_of("|_|?|") == ""
    assert text_of("") == ""


def test_symbols_keep_the_case_of_the_model() -> None:
    info = ModelInfo(EngineRef(name="ctc", model="m"), None, ("[PAD]", "h", "I", " "), 0, " ")
    ids = np.array([1, 2, 3, 1], np.int32)
    assert [word.text for word in words_of(ids, np.ones(4, np.float32), info, 1e9)] == ["hI", "h"]


def test_a_word_is_where_its_frames_are() -> None:
    ids = frames("____HHE__|_O__")
    first, second = words_of(ids, np.ones(ids.size, np.float32), INFO, 10.0)
    centre = [(320 * frame + 200) / SAMPLE_RATE for frame in range(ids.size)]
    assert first.start_seconds == pytest.approx(centre[4] - 0.01, abs=1e-3)
    assert first.end_seconds == pytest.approx(centre[6] + 0.01, abs=1e-3)
    assert second.start_seconds == pytest.approx(centre[11] - 0.01, abs=1e-3)
    assert second.end_seconds - second.start_seconds == pytest.approx(0.02, abs=2e-3)


def test_a_word_is_as_sure_as_its_least_sure_letter() -> None:
    ids = frames("HHE|O")
    confidence = np.array([1.0, 0.8, 0.3, 0.1, 0.7], np.float32)
    assert [word.confidence for word in words_of(ids, confidence, INFO, 1.0)] == pytest.approx([0.3, 0.7], abs=1e-4)


def test_a_segment_ends_at_a_pause_and_never_grows_too_long() -> None:
    pause = "_" * 40
    ids = frames("HE|LL|" + pause + "LO|")
    words = words_of(ids, np.ones(ids.size, np.float32), INFO, 1e9)
    assert [segment.text for segment in ctc.segments_of(words)] == ["HE L", "LO"]
    chatter = words_of(frames("HE|LO|____" * 400), np.ones(4000, np.float32), INFO, 1e9)
    long = ctc.segments_of(chatter)
    assert len(long) > 1
    assert all(segment.end_seconds - segment.start_seconds <= ctc.SEGMENT_SECONDS for segment in long)
    assert " ".join(segment.text for segment in long) == " ".join(word.text for word in chatter)


def test_frames_are_counted_as_the_convolutions_do() -> None:
    assert [frame_count(samples) for samples in (0, 399, 400, 719, 720, 160_000)] == [0, 0, 1, 1, 2, 499]


def test_a_short_recording_is_one_chunk() -> None:
    family = CtcFamily(20.0, 2.0)
    assert family.plan(np.zeros(20 * SAMPLE_RATE, np.float32)) == [Span(0, 20 * SAMPLE_RATE)]
    assert family.plan(np.zeros(3, np.float32)) == [Span(0, 3)]


def test_a_seam_is_put_where_it_is_quiet() -> None:
    generator = np.random.default_rng(1)
    samples = generator.normal(0, 0.3, 38 * SAMPLE_RATE).astype(np.float32)
    quiet = slice(int(18.5 * SAMPLE_RATE), int(18.65 * SAMPLE_RATE))
    samples[quiet] = 0.0
    first, second = CtcFamily(20.0, 2.0).plan(samples)
    assert second.start < quiet.start < first.stop
    assert second.seam is not None
    assert quiet.start < second.seam < quiet.stop


def test_a_seam_in_even_noise_or_silence_is_in_the_middle() -> None:
    first, second = CtcFamily(20.0, 2.0).plan(np.zeros(38 * SAMPLE_RATE, np.float32))
    assert second.seam == pytest.approx((second.start + first.stop) / 2, abs=2 * 320)


def test_an_overlap_of_more_than_two_fifths_of_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="more than two fifths"):
        CtcFamily(5.0, 2.1)


@given(st.integers(1, 400_000), st.sampled_from([(5.0, 0.5), (5.0, 2.0), (6.01, 0.513)]))
@settings(max_examples=200)
def test_chunks_cover_everything_and_are_of_one_length(total: int, lengths: tuple[float, float]) -> None:
    chunk, overlap = (round(seconds * SAMPLE_RATE) for seconds in lengths)
    spans = CtcFamily(*lengths).plan(np.zeros(total, np.float32))
    assert (spans[0].start, spans[-1].stop) == (0, total)
    for before, after in pairwise(spans):
        assert after.start % 320 == 0
        assert before.stop - after.start >= overlap
        assert after.seam is not None
        assert after.start < after.seam < before.stop
        assert after.seam % 320 == 0
    sizes = [span.stop - span.start for span in spans]
    assert max(sizes) <= chunk
    assert max(sizes) - min(sizes) < 2 * 320


def written_recording(draw: st.DrawFn) -> np.ndarray:
    runs = draw(st.lists(st.tuples(st.sampled_from("_EHLO|^?"), st.integers(1, 30)), min_size=1, max_size=120))
    return frames("".join(letter * length for letter, length in runs))


@given(st.composite(written_recording)(), st.integers(0, 319), st.integers(0, 3))
@settings(max_examples=150)
def test_joined_chunks_say_exactly_what_the_whole_says(ids: np.ndarray, rest: int, seed: int) -> None:
    """The oracle is one collapse of the whole; every chunk sees the same ids in its own frames."""
    total = (ids.size - 1) * 320 + 400 + rest
    generator = np.random.default_rng(seed)
    samples = generator.normal(0, 0.1, total).astype(np.float32)
    confidence = generator.random(ids.size, np.float32)
    assert frame_count(total) == ids.size
    family = CtcFamily(5.0, 1.0)
    spans = family.plan(samples)
    parts = [slice(span.start // 320, span.start // 320 + frame_count(span.stop - span.start)) for span in spans]
    answers = [heard(ids[part], confidence[part]) for part in parts]
    merged = family.merge(spans, answers, INFO, total / SAMPLE_RATE)
    whole = family.merge([Span(0, total)], [heard(ids, confidence)], INFO, total / SAMPLE_RATE)
    assert merged == whole
    times = [moment for word in merged.words or [] for moment in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)


def test_chunks_that_hear_a_letter_at_different_frames_do_not_double_or_lose_it() -> None:
    """At the seam itself one chunk is three frames late; they agree a little further on, and are joined there."""
    spans = [Span(0, 320 * 100 + 80), Span(320 * 50, 320 * 150 + 80, seam=320 * 75)]
    whole = list("_" * 150)
    whole[60], whole[90] = "E", "O"
    early, late = whole.copy(), whole.copy()
    early[74], late[77] = "L", "L"
    family = CtcFamily(5.0, 1.0)
    for first, second in ((early, late), (late, early)):
        answers = [heard(frames("".join(first[:100]))), heard(frames("".join(second[50:])))]
        merged = family.merge(spans, answers, INFO, 3.0)
        assert (merged.text, merged.warnings) == ("ELO", [])
    # a cut at the seam as planned would double the letter, or lose it
    assert text_of("".join(early[:75] + late[75:])) == "ELLO"
    assert text_of("".join(late[:75] + early[75:])) == "EO"


def test_chunks_that_agree_nowhere_are_joined_with_a_warning() -> None:
    spans = [Span(0, 320 * 100 + 80), Span(320 * 50, 320 * 150 + 80, seam=320 * 75)]
    answers = [heard(frames("E" * 100)), heard(frames("H" * 100))]
    merged = CtcFamily(5.0, 1.0).merge(spans, answers, INFO, 3.0)
    assert (merged.text, merged.warnings) == ("EH", ["seam_uncertain"])


def test_a_recording_without_words_says_so() -> None:
    merged = CtcFamily(5.0, 1.0).merge([Span(0, 300)], [heard(frames(""))], INFO, 0.02)
    assert (merged.text, merged.words, merged.confidence, merged.warnings) == ("", [], None, ["no_speech"])


def test_what_the_gate_leaves_out_is_in_no_chunk_and_parts_the_words_beside_it() -> None:
    family, total = CtcFamily(5.0, 1.0), 320 * 2000
    gone = ((0, 320 * 100 + 160), (320 * 300, 320 * 900 + 160), (320 * 1900, total))
    said = frames("_" * 100 + "H" * 10 + "E" * 190 + "_" * 600 + "L" * 10 + "O" * 990 + "_" * 100)

    spans = family.plan(np.zeros(total, np.float32), gone)
    answers = [heard(said[span.start // 320 :][: frame_count(span.stop - span.start)]) for span in spans]
    merged = family.merge(spans, answers, INFO, total / SAMPLE_RATE)

    covered = np.zeros(total, bool)
    for span in spans:
        covered[span.start : span.stop] = True
    assert not any(covered[start : stop - 320].any() for start, stop in gone)
    assert covered[320 * 101 : 320 * 300].all()
    assert covered[320 * 901 : 320 * 1900].all()
    assert (merged.text, merged.warnings) == ("HE LO", [])
    assert merged.words is not None
    assert merged.words[0].start_seconds == pytest.approx(2.0, abs=0.05)
    assert merged.words[1].start_seconds == pytest.approx(18.0, abs=0.05)


def test_a_recording_of_silence_alone_has_no_chunks() -> None:
    assert CtcFamily(5.0, 1.0).plan(np.zeros(50_000, np.float32), ((0, 50_000),)) == []
