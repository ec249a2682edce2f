"""How Whisper treats whole recordings: windows of at most 29 s, cut in pauses, and one text of what was heard.

Pure; imports no model library. A window is never cut blindly: where nobody pauses for long enough, two windows
overlap and their words are matched. What the silence gate leaves out is left out of the windows too, so that one
window holds the speech on both sides of it; all places and times are those of the whole recording.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from consumer.core import pauses
from consumer.core.hearing import HeardChunk, HeardWord, ModelInfo, Pcm, Samples, Span, Stretches, without
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import FRAME_SAMPLES, Levels, Pause
from consumer.core.seams import plain, seam
from consumer.core.silence import MARGIN_SECONDS
from schemas.codes import WarningCode
from schemas.models import Recognised, Segment, Word

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper hears at once."""
LONGEST_SAMPLES = 29 * SAMPLE_RATE
"""What a window is filled with at most. Speech up to the very end of the 30 s, and Whisper may stop after a word or
lose a sentence; a second of silence after it, and it hears all (measured)."""
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words."""

_SHORTEST_SAMPLES = 5 * SAMPLE_RATE
_WELL_FILLED_SAMPLES = 22 * SAMPLE_RATE
_LONG_PAUSE_SECONDS = 1.0
_MARGIN_SAMPLES = SAMPLE_RATE // 2


class WhisperFamily:
    """A Family.

    ``chunk_overlap_seconds`` is what windows share where there is no pause; ``word_times`` asks for the time of
    every word, not only at overlapping seams.
    """

    def __init__(self, *, chunk_overlap_seconds: float = 2.0, word_times: bool = False) -> None:
        self._overlap = round(chunk_overlap_seconds * SAMPLE_RATE)
        self._word_times = word_times

    def plan(self, samples: Pcm | Samples, left_out: Stretches | None = None) -> list[Span]:
        """Windows of at most 29 s that hold everything that can be heard; none for a silent recording.

        Silence at the edges of a window and windows of silence are left out: no model should be asked about them.
        A window with something left out inside asks for word times, to tell what was said before it and after.
        """
        levels = pauses.frame_levels(samples)
        quiet = pauses.find_pauses(levels)
        kept = without(0, len(samples), left_out or ())
        if left_out:
            quiet = _spliced(quiet, left_out, len(levels))
            for start, stop in left_out:
                levels[start // FRAME_SAMPLES : -(-stop // FRAME_SAMPLES)] = pauses.FAINTEST_DB
        spans = cut(quiet, sum(stop - start for start, stop in kept), self._overlap)
        placed = [_placed(span, kept) for span in spans]
        trimmed = [_trim(span, levels, left_out or ()) for span in placed]
        return [replace(span, words=span.words or self._word_times or bool(span.left_out)) for span in trimmed if span]

    def merge(self, spans: list[Span], heard: list[HeardChunk], info: ModelInfo, audio_seconds: float) -> Recognised:
        """One text; a segment for each window with words in it, in the recording's seconds."""
        pieces = [_Piece.of(span, chunk) for span, chunk in zip(spans, heard, strict=True)]
        warnings = [code for chunk in heard for code in chunk.warnings]
        for left, right in pairwise(pieces):
            if right.span.start < left.span.stop and _join(left, right):
                warnings.append(WarningCode.SEAM_UNCERTAIN.value)
        spoken = [piece for piece in pieces if piece.text]
        if not spoken:
            warnings.append(WarningCode.NO_SPEECH.value)
        return Recognised(
            text=" ".join(piece.text for piece in spoken),
            language=_language(spoken, info),
            segments=[segment for piece in spoken for segment in piece.segments()],
            words=_words(pieces),
            confidence=_confidence(spoken),
            engine=info.ref,
            audio_seconds=audio_seconds,
            warnings=list(dict.fromkeys(warnings)),
        )


def cut(quiet: list[Pause], total: int, overlap: int) -> list[Span]:
    """Cut ``total`` samples in pauses, into windows that cover all of it.

    A window ends in the longest pause that leaves it well filled, else in an earlier one, else it overlaps the next.
    """
    spans: list[Span] = []
    middles = [pause.middle for pause in quiet]
    start, shared = 0, False
    while total - start > LONGEST_SAMPLES:
        first = bisect_left(middles, start + _SHORTEST_SAMPLES)
        pause = _best_pause(quiet[first : bisect_right(middles, start + LONGEST_SAMPLES)], start)
        if pause:
            spans.append(Span(start, pause.middle, words=shared))
            start, shared = pause.middle, False
        else:
            # two halves rather than a full window and a scrap
            stop = min(start + LONGEST_SAMPLES, (start + total + overlap) // 2)
            spans.append(Span(start, stop, words=True))
            start, shared = stop - overlap, True
    if total > start:
        spans.append(Span(start, total, words=shared))
    return spans


def _best_pause(within: list[Pause], start: int) -> Pause | None:
    """The longest pause that leaves the window well filled; without one the longest; of equals the later one."""
    filling = [pause for pause in within if pause.middle >= start + _WELL_FILLED_SAMPLES]
    return max(
        filling or within,
        key=lambda pause: (min(pause.seconds, _LONG_PAUSE_SECONDS), pause.middle),
        default=None,
    )


def _spliced(quiet: list[Pause], left_out: Stretches, frames: int) -> list[Pause]:
    """Pauses as they lie once ``left_out`` is gone; what the gate kept on either side of it is one too."""
    is_quiet, kept = np.zeros(frames, bool), np.ones(frames, bool)
    for pause in quiet:
        is_quiet[pause.start // FRAME_SAMPLES : pause.stop // FRAME_SAMPLES] = True
    margin = round(MARGIN_SECONDS * SAMPLE_RATE) // FRAME_SAMPLES
    for start, stop in left_out:
        first, last = start // FRAME_SAMPLES, -(-stop // FRAME_SAMPLES)
        is_quiet[max(0, first - margin) : last + margin] = True
        kept[first:last] = False
    found = pauses.runs(is_quiet[kept], pauses.MINIMUM_PAUSE_SECONDS)
    return [Pause(start * FRAME_SAMPLES, stop * FRAME_SAMPLES) for start, stop in found]


def _placed(span: Span, kept: Stretches) -> Span:
    """A span of what was kept as one of the whole recording: its edges lie in what was kept."""
    start, stop, passed = span.start, span.stop, 0
    for first, last in kept:
        length = last - first
        if passed <= span.start < passed + length:
            start = first + span.start - passed
        if passed < span.stop <= passed + length:
            stop = first + span.stop - passed
        passed += length
    return replace(span, start=start, stop=stop)


def _trim(span: Span, levels: Levels, left_out: Stretches) -> Span | None:
    """The span without the silence at its ends, half a second of it excepted; None if nothing is left.

    Silence is what nobody can hear. Whether somebody speaks in hum or hiss is for the gate to say: speech may lie
    under either.
    """
    first, last = span.start // FRAME_SAMPLES, -(-span.stop // FRAME_SAMPLES)
    inside = levels[first:last]
    if float(inside.max()) < pauses.SILENCE_DB:
        return None
    loud = (inside >= pauses.SILENCE_DB).nonzero()[0]
    start = max(span.start, (first + int(loud[0])) * FRAME_SAMPLES - _MARGIN_SAMPLES)
    stop = min(span.stop, (first + int(loud[-1]) + 1) * FRAME_SAMPLES + _MARGIN_SAMPLES)
    kept = without(start, stop, left_out)
    start, stop = kept[0][0], kept[-1][1]
    gone = tuple((before[1], after[0]) for before, after in pairwise(kept))
    return replace(span, start=start, stop=stop, left_out=gone)


@dataclass(slots=True)
class _Piece:
    """What a window adds to the text, in the recording's seconds; the seams shorten it."""

    span: Span
    chunk: HeardChunk
    text: str
    words: list[HeardWord] | None

    @classmethod
    def of(cls, span: Span, chunk: HeardChunk) -> "_Piece":
        if not plain(chunk.text):
            return cls(span, chunk, "", [])
        words = None if chunk.words is None else [_in_recording(word, span) for word in chunk.words]
        return cls(span, chunk, chunk.text.strip(), words)

    def keep(self, first: int, last: int) -> None:
        """Only the words from ``first`` to before ``last``."""
        words = self.words or []
        if last - first < len(words):
            self.words = words[first:last]
            self.text = self._joined(self.words)

    def segments(self) -> list[Segment]:
        """One, or one for each part of the window between which something was left out."""
        if not self.words:
            start, stop = self.span.start / SAMPLE_RATE, self.span.stop / SAMPLE_RATE
            return [Segment(start_seconds=start, end_seconds=stop, text=self.text)]
        edges = [stop / SAMPLE_RATE for _, stop in self.span.left_out]
        parts = [list(group) for _, group in groupby(self.words, lambda word: bisect_right(edges, word.start_seconds))]
        texts = [self.text] if len(parts) == 1 else [self._joined(part) for part in parts]
        return [
            Segment(start_seconds=part[0].start_seconds, end_seconds=part[-1].end_seconds, text=text)
            for part, text in zip(parts, texts, strict=True)
        ]

    def _joined(self, words: list[HeardWord]) -> str:
        gap = "" if self.chunk.language in UNSPACED else " "
        return gap.join(word.text for word in words)


def _join(left: _Piece, right: _Piece) -> bool:
    """Take each word of an overlap once; whether the two windows disagreed there."""
    if left.words is None or right.words is None:
        raise ValueError("overlapping windows were recognised without word times: this is a bug")
    found = seam(left.words, right.words, right.span.start / SAMPLE_RATE, left.span.stop / SAMPLE_RATE)
    left.keep(0, found.keep)
    right.keep(found.skip, len(right.words))
    # at the seam times of two windows meet, and may cross by a little
    if left.words and right.words:
        border = left.words[-1].end_seconds
        right.words = [
            replace(word, start_seconds=max(word.start_seconds, border), end_seconds=max(word.end_seconds, border))
            for word in right.words
        ]
    return found.uncertain


def _in_recording(word: HeardWord, span: Span) -> HeardWord:
    """The word where it lies in the recording: all of it in that part of the window which holds its middle."""
    middle, passed = (word.start_seconds + word.end_seconds) / 2, 0.0
    for first, last in span.kept:
        start, stop = first / SAMPLE_RATE, last / SAMPLE_RATE
        if middle < passed + stop - start or last == span.stop:
            break
        passed += stop - start
    begin, end = (
        round(min(max(start + seconds - passed, start), stop), 3) for seconds in (word.start_seconds, word.end_seconds)
    )
    return replace(word, start_seconds=begin, end_seconds=end)


def _words(pieces: list[_Piece]) -> list[Word] | None:
    words: list[Word] = []
    for piece in pieces:
        if piece.words is None:
            return None
        words += [
            Word(
                start_seconds=word.start_seconds,
                end_seconds=word.end_seconds,
                text=word.text,
                confidence=word.confidence,
            )
            for word in piece.words
        ]
    return words


def _confidence(spoken: list[_Piece]) -> float | None:
    """exp of the mean log-probability over all tokens of all windows."""
    told = [(piece.chunk.tokens, piece.chunk.mean_logprob) for piece in spoken if piece.chunk.mean_logprob is not None]
    tokens = sum(count for count, _ in told)
    return min(1.0, math.exp(sum(count * mean for count, mean in told) / tokens)) if tokens else None


def _language(spoken: list[_Piece], info: ModelInfo) -> str | None:
    """The language of most tokens; of a model of one language that one."""
    if info.languages and len(info.languages) == 1:
        return info.languages[0]
    counts: Counter[str] = Counter()
    for piece in spoken:
        if piece.chunk.language:
            counts[piece.chunk.language] += piece.chunk.tokens or 1
    return counts.most_common(1)[0][0] if counts else None
