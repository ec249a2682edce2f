"""CTC over whole recordings: cut them into overlapping chunks, join what was heard, make words with times.

Pure numpy. A frame is one step of the model: frame i hears the 400 samples from 320·i on. Chunks start at multiples
of 320 samples, so that a frame of a chunk *is* a frame of the recording, and the best ids of all chunks make one
sequence that is collapsed once: a letter that spans a seam stays one letter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from consumer.core.frames import FIELD_SAMPLES, FRAME_SAMPLES
from consumer.core.hearing import HeardChunk, ModelInfo, Pcm, Samples, Span, Stretches, to_samples, without
from consumer.core.model import SAMPLE_RATE
from schemas.codes import WarningCode
from schemas.models import Recognised, Segment, Word

PAUSE_SECONDS = 0.6
"""A pause between words that begins a new segment."""
SEGMENT_SECONDS = 30.0
"""Longest segment: subtitles of unbroken speech must still be readable."""

_QUIET_FRAMES = 5
"""100 ms: what is compared when the quietest place is sought."""
_MARGIN_SECONDS = 0.25
"""Nearer to its edge than this, a chunk lacks context and is not believed where the other one has it."""
_AGREED_FRAMES = (4, 1)
"""Frames on either side of a cut that both chunks must have heard alike: as many as a letter may be shifted by, so
that none is cut between its two places; where there is no such place, one frame has to do."""

Ids = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """Equal neighbouring ids as one; shape (runs,) each. ``starts`` to ``stops`` (exclusive) are frames."""

    ids: Ids
    starts: Positions
    stops: Positions


def collapse(ids: Ids, blank_id: int) -> Runs:
    """CTC's rule: equal neighbours become one symbol, *then* blanks go (the other way round HELLO becomes HELO)."""
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    starts = np.concatenate([[0], changes]).astype(np.int64)[: ids.size]
    stops = np.concatenate([changes, [ids.size]]).astype(np.int64)[: ids.size]
    kept = ids[starts] != blank_id
    return Runs(ids[starts][kept], starts[kept], stops[kept])


def words_of(ids: Ids, confidence: Samples, info: ModelInfo, audio_seconds: float) -> list[Word]:
    """The words in the frames of a recording, their times rising, each as sure as its least sure symbol.

    A symbol is as sure as its frames are on average: at its edges certainty sinks even where it was heard well, and
    the least sure frame would tell of edges alone. Over symbols the minimum, which finds wrong words better than the
    mean does (Laptev and Ginsburg 2022, arXiv 2212.08703); blanks do not count.
    """
    runs = collapse(ids, info.blank_id)
    symbols = [_symbol(info, int(run_id)) for run_id in runs.ids]
    sums = np.concatenate([[0.0], np.cumsum(confidence, dtype=np.float64)])
    certainty = (sums[runs.stops] - sums[runs.starts]) / np.maximum(runs.stops - runs.starts, 1)
    words: list[Word] = []
    for first, last in _word_runs(symbols, info.word_delimiter):
        members = [index for index in range(first, last) if symbols[index]]
        words.append(
            Word(
                text="".join(symbols[index] for index in members),
                start_seconds=_seconds(int(runs.starts[members[0]]) - 0.5, audio_seconds),
                end_seconds=_seconds(int(runs.stops[members[-1]]) - 0.5, audio_seconds),
                confidence=round(min(1.0, max(0.0, float(certainty[members].min()))), 4),
            )
        )
    return words


def _symbol(info: ModelInfo, symbol_id: int) -> str:
    """Written form of an id; specials such as ``<s>`` are nothing: they go after collapsing, like the blank."""
    symbol = info.vocabulary[symbol_id] if 0 <= symbol_id < len(info.vocabulary) else ""
    special = len(symbol) > 2 and (symbol[0], symbol[-1]) in {("<", ">"), ("[", "]")}
    return "" if special else symbol


def _word_runs(symbols: list[str], delimiter: str) -> Iterator[tuple[int, int]]:
    """Where each word's runs begin and end (exclusive); stretches without a written symbol are no words."""
    first = 0
    for index, symbol in enumerate([*symbols, delimiter]):
        if index == len(symbols) or symbol == delimiter:
            if any(symbols[first:index]):
                yield first, index
            first = index + 1


def _seconds(frame: float, audio_seconds: float) -> float:
    """The centre of a frame; words reach half a frame beyond their outer frames' centres, so none is empty."""
    seconds = (FRAME_SAMPLES * frame + FIELD_SAMPLES / 2) / SAMPLE_RATE
    return round(min(max(seconds, 0.0), audio_seconds), 3)


def segments_of(words: list[Word]) -> list[Segment]:
    """Words between pauses, none longer than ``SEGMENT_SECONDS`` unless a single word is."""
    groups: list[list[Word]] = []
    for word in words:
        if (
            groups
            and word.start_seconds - groups[-1][-1].end_seconds < PAUSE_SECONDS
            and word.end_seconds - groups[-1][0].start_seconds <= SEGMENT_SECONDS
        ):
            groups[-1].append(word)
        else:
            groups.append([word])
    return [
        Segment(
            start_seconds=group[0].start_seconds,
            end_seconds=group[-1].end_seconds,
            text=" ".join(word.text for word in group),
        )
        for group in groups
    ]


class CtcFamily:
    """Chunks of equal length with an overlap, joined where the overlap is quiet and both chunks agree.

    Equal lengths keep a recording's chunks in one length bucket, and no tail is too short to be heard well.
    """

    def __init__(self, chunk_seconds: float, overlap_seconds: float) -> None:
        """Raises ValueError where the overlap is over two fifths of a chunk: seams on its two sides could cross."""
        self._chunk = math.floor(chunk_seconds * SAMPLE_RATE / FRAME_SAMPLES) * FRAME_SAMPLES
        self._overlap = math.ceil(overlap_seconds * SAMPLE_RATE / FRAME_SAMPLES) * FRAME_SAMPLES
        if self._overlap * 5 > self._chunk * 2:
            raise ValueError(
                f"chunk_overlap_seconds ({overlap_seconds:g}) is more than two fifths of chunk_seconds "
                f"({chunk_seconds:g})"
            )

    def plan(self, samples: Pcm | Samples, left_out: Stretches | None = None) -> list[Span]:
        """Spans of equal length (but for rounding to frames) with seams in the quietest 100 ms of each overlap.

        Where the silence gate leaves something out, each stretch beside it is cut by itself.
        """
        spans: list[Span] = []
        for start, stop in without(0, int(samples.shape[0]), left_out or ()):
            first = start // FRAME_SAMPLES * FRAME_SAMPLES
            spans += [_moved(span, first) for span in self._cut(samples[first:stop])]
        return spans

    def _cut(self, samples: Pcm | Samples) -> list[Span]:
        total = int(samples.shape[0])
        if total <= self._chunk:
            return [Span(0, total)]
        count = math.ceil((total - self._overlap) / (self._chunk - self._overlap))
        length = _whole_frames(total + (count - 1) * self._overlap, count)
        starts = [_whole_frames(index * (total - length), count - 1) for index in range(count)]
        stops = [min(start + length, total) for start in starts]
        spans = [Span(0, stops[0])]
        for start, stop, earlier_stop in zip(starts[1:], stops[1:], stops, strict=False):
            spans.append(Span(start, stop, seam=start + _quietest(samples[start:earlier_stop])))
        return spans

    def merge(self, spans: list[Span], heard: list[HeardChunk], info: ModelInfo, audio_seconds: float) -> Recognised:
        """One text of all chunks; ``seam_uncertain`` where two chunks agree nowhere in what they share."""
        ids, confidence, agreed = join(spans, heard, info)
        words = words_of(ids, confidence, info, audio_seconds)
        warnings = [] if agreed else [WarningCode.SEAM_UNCERTAIN.value]
        if not words:
            warnings.append(WarningCode.NO_SPEECH.value)
        letters = sum(len(word.text) for word in words)
        weighted = sum((word.confidence or 0.0) * len(word.text) for word in words)
        return Recognised(
            text=" ".join(word.text for word in words),
            language=info.languages[0] if info.languages and len(info.languages) == 1 else None,
            segments=segments_of(words),
            words=words,
            confidence=round(weighted / letters, 4) if letters else None,
            engine=info.ref,
            audio_seconds=audio_seconds,
            warnings=warnings,
        )


def join(spans: list[Span], heard: list[HeardChunk], info: ModelInfo) -> tuple[Ids, Samples, bool]:
    """The recording's ids and confidences by frame, and whether the chunks agreed at every seam.

    Frames that no chunk heard, since they were left out as silence, are blank, and end the word before them.
    """
    cuts, agreed = [spans[0].start // FRAME_SAMPLES], True
    for (before, earlier), (after, later) in zip(
        zip(spans, heard, strict=True), zip(spans[1:], heard[1:], strict=True), strict=False
    ):
        cut, sure = _cut(before, earlier, after, later)
        cuts.append(cut)
        agreed = agreed and sure
    ids: list[Ids] = []
    confidence: list[Samples] = []
    reached = 0
    for span, chunk, first, last in zip(spans, heard, cuts, [*cuts[1:], None], strict=True):
        offset = span.start // FRAME_SAMPLES
        part = slice(first - offset, None if last is None else last - offset)
        gap = max(0, first - reached)
        ids += [_silence(gap, info), chunk.frame_ids[part]]
        confidence += [np.ones(gap, np.float32), chunk.frame_confidence[part]]
        reached = max(first, reached) + int(ids[-1].size)
    return np.concatenate(ids), np.concatenate(confidence), agreed


def _cut(before: Span, earlier: HeardChunk, after: Span, later: HeardChunk) -> tuple[int, bool]:
    """The frame from which ``later`` counts: the nearest to the seam where both heard the same on either side of it."""
    low = after.start // FRAME_SAMPLES
    if after.start >= before.stop:
        return low, True  # silence was left out between the two
    high = before.start // FRAME_SAMPLES + int(earlier.frame_ids.size)
    seam = min(max((after.start if after.seam is None else after.seam) // FRAME_SAMPLES, low), high)
    mine = earlier.frame_ids[low - before.start // FRAME_SAMPLES :]
    frames = min(int(mine.size), int(later.frame_ids.size))
    same = mine[:frames] == later.frame_ids[:frames]
    margin = _margin_frames(frames)
    for reach in _AGREED_FRAMES:
        if frames < 2 * reach:
            continue
        alike = np.convolve(same, np.ones(2 * reach, np.int64), mode="valid")
        places = np.flatnonzero(alike == 2 * reach) + reach
        places = places[(places >= margin) & (places <= frames - margin)] + low
        if places.size:
            return int(places[np.abs(places - seam).argmin()]), True
    return seam, False


def _silence(frames: int, info: ModelInfo) -> Ids:
    ids = np.full(frames, info.blank_id, np.int32)
    if frames > 1 and info.word_delimiter in info.vocabulary:
        ids[frames // 2] = info.vocabulary.index(info.word_delimiter)
    return ids


def _moved(span: Span, offset: int) -> Span:
    seam = None if span.seam is None else span.seam + offset
    return replace(span, start=span.start + offset, stop=span.stop + offset, seam=seam)


def _quietest(overlap: Pcm | Samples) -> int:
    """Where in the samples that two chunks share the 100 ms are quietest, in whole frames; the middle if all is."""
    frames = int(overlap.shape[0]) // FRAME_SAMPLES
    sound = to_samples(overlap[: frames * FRAME_SAMPLES]).astype(np.float64)
    energy = np.square(sound).reshape(frames, FRAME_SAMPLES).sum(axis=1)
    margin = _margin_frames(frames)
    width = min(_QUIET_FRAMES, frames - 2 * margin)
    windows = np.convolve(energy[margin : frames - margin], np.ones(width), mode="valid")
    off_centre = np.abs(np.arange(windows.size) - (windows.size - 1) / 2)
    best = int(np.lexsort((off_centre, np.round(windows, 9)))[0])
    return (margin + best + width // 2) * FRAME_SAMPLES


def _margin_frames(frames: int) -> int:
    return min(round(_MARGIN_SECONDS * SAMPLE_RATE / FRAME_SAMPLES), frames // 4)


def _whole_frames(samples: int, parts: int) -> int:
    """An equal part of the samples, rounded up to whole frames (in integers: no rounding error at any length)."""
    return -(-samples // (parts * FRAME_SAMPLES)) * FRAME_SAMPLES
