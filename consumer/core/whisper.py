"""How Whisper treats whole recordings: windows of at most 29 s, cut in pauses, and one text of what was heard.

Pure; imports no model library. A window is never cut blindly: where nobody pauses for long enough, two windows
overlap and their words are matched.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

from consumer.core import pauses
from consumer.core.hearing import HeardChunk, HeardWord, ModelInfo, Pcm, Samples, Span
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import FRAME_SAMPLES, Levels, Pause
from consumer.core.seams import plain, seam
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
_NO_SPEECH_PROBABILITY = 0.6
_UNSURE_LOGPROB = -1.0
_SURELY_NO_SPEECH_PROBABILITY = 0.8
_SCRAP_TOKENS = 4


class WhisperFamily:
    """A Family.

    ``chunk_overlap_seconds`` is what windows share where there is no pause; ``word_times`` asks for the time of
    every word, not only at overlapping seams.
    """

    def __init__(self, *, chunk_overlap_seconds: float = 2.0, word_times: bool = False) -> None:
        self._overlap = round(chunk_overlap_seconds * SAMPLE_RATE)
        self._word_times = word_times

    def plan(self, samples: Pcm | Samples) -> list[Span]:
        """Windows of at most 29 s that hold everything that can be heard; none for a silent recording.

        Silence at the edges of a window and windows of silence are left out: no model should be asked about them.
        """
        levels = pauses.frame_levels(samples)
        spans = cut(pauses.find_pauses(levels), len(samples), self._overlap)
        trimmed = [_trim(span, levels) for span in spans]
        return [replace(span, words=span.words or self._word_times) for span in trimmed if span]

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
            segments=[piece.segment() for piece in spoken],
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


def _trim(span: Span, levels: Levels) -> Span | None:
    """The span without the silence at its ends, half a second of it excepted; None if nothing is left."""
    first, last = span.start // FRAME_SAMPLES, -(-span.stop // FRAME_SAMPLES)
    inside = levels[first:last]
    if pauses.is_silent(inside):
        return None
    loud = (inside >= pauses.SILENCE_DB).nonzero()[0]
    start = max(span.start, (first + int(loud[0])) * FRAME_SAMPLES - _MARGIN_SAMPLES)
    stop = min(span.stop, (first + int(loud[-1]) + 1) * FRAME_SAMPLES + _MARGIN_SAMPLES)
    return replace(span, start=start, stop=stop)


@dataclass(slots=True)
class _Piece:
    """What a window adds to the text, in the recording's seconds; the seams shorten it."""

    span: Span
    chunk: HeardChunk
    text: str
    words: list[HeardWord] | None

    @classmethod
    def of(cls, span: Span, chunk: HeardChunk) -> "_Piece":
        if _nobody_speaks(chunk):
            return cls(span, chunk, "", [])
        offset = span.start / SAMPLE_RATE
        words = None if chunk.words is None else [_moved(word, offset) for word in chunk.words]
        return cls(span, chunk, chunk.text.strip(), words)

    def keep(self, first: int, last: int) -> None:
        """Only the words from ``first`` to before ``last``."""
        words = self.words or []
        if last - first < len(words):
            self.words = words[first:last]
            gap = "" if self.chunk.language in UNSPACED else " "
            self.text = gap.join(word.text for word in self.words)

    def segment(self) -> Segment:
        start, stop = self.span.start / SAMPLE_RATE, self.span.stop / SAMPLE_RATE
        if self.words:
            start, stop = self.words[0].start_seconds, self.words[-1].end_seconds
        return Segment(start_seconds=start, end_seconds=stop, text=self.text)


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


def _nobody_speaks(chunk: HeardChunk) -> bool:
    """Whether what was heard is no speech.

    OpenAI's rule: nobody seems to speak, and the words are unsure. Ours, for the *you* and *Thank you.* that Whisper
    hears in noise: nobody speaks for sure, and it is but a word or two. (With tiny.en room noise, hiss and hum lie
    above 0.78, single words cut out of speech below 0.7.)
    """
    no_speech = chunk.no_speech_probability or 0.0
    unsure = no_speech > _NO_SPEECH_PROBABILITY and (chunk.mean_logprob or 0.0) < _UNSURE_LOGPROB
    scrap = no_speech > _SURELY_NO_SPEECH_PROBABILITY and chunk.tokens <= _SCRAP_TOKENS
    return unsure or scrap or not plain(chunk.text)


def _moved(word: HeardWord, offset: float) -> HeardWord:
    start, end = round(word.start_seconds + offset, 3), round(word.end_seconds + offset, 3)
    return replace(word, start_seconds=start, end_seconds=end)


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
