"""One run of words out of two that overlap in time: what was heard at the end of one window and, again, at the start
of the next.

Near its edges a window is heard badly (a word cut in two, no context), and word times wander by a few tenths of a
second. So the same words are first found in both by their text, in order and at about the same time; the seam is
laid right after the pair that is furthest from both edges, and no time needs to be exact. Only where they share no
word does time decide.
"""

import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from consumer.core.hearing import HeardWord

SAME_WORD_SECONDS = 1.0
"""How far apart two windows may place the same word."""
EDGE_SECONDS = 0.5
"""What lies nearer to a window's edge may be heard wrongly without calling the seam uncertain."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Keep ``before[:keep]`` and then ``after[skip:]``."""

    keep: int
    skip: int
    uncertain: bool


def seam(before: list[HeardWord], after: list[HeardWord], start_seconds: float, stop_seconds: float) -> Seam:
    """Where to go over from one window's words to the next one's.

    Both lists are in the recording's own seconds; both windows heard ``start_seconds`` to ``stop_seconds``.
    """
    middle = (start_seconds + stop_seconds) / 2
    first = sum(_centre(word) < start_seconds - EDGE_SECONDS for word in before)
    last = sum(_centre(word) <= stop_seconds + EDGE_SECONDS for word in after)
    pairs = [(first + left, right) for left, right in _same_words(before[first:], after[:last])]
    uncertain = _disagree(before, after, pairs, start_seconds, stop_seconds)
    if pairs:
        left, right = min(pairs, key=lambda pair: abs(_centre(before[pair[0]]) + _centre(after[pair[1]]) - 2 * middle))
        return Seam(left + 1, right + 1, uncertain)
    if first == len(before) or not last:
        return Seam(len(before), 0, uncertain)  # one heard nothing here, so nothing can be doubled
    keep = sum(_centre(word) < middle for word in before)
    skip = sum(_centre(word) < middle for word in after)
    return Seam(keep, skip, uncertain)


def plain(text: str) -> str:
    """A word as it is compared: letters and digits only, without case."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def _centre(word: HeardWord) -> float:
    return (word.start_seconds + word.end_seconds) / 2


def _same_words(before: list[HeardWord], after: list[HeardWord]) -> list[tuple[int, int]]:
    """The words that both have, in order, as many and as close in time as can be; pairs of indices."""
    gains = np.zeros((len(before), len(after)))
    for row, left in enumerate(before):
        for column, right in enumerate(after):
            apart = abs(_centre(left) - _centre(right))
            if apart < SAME_WORD_SECONDS and plain(left.text) == plain(right.text):
                # by time as well as by count, or one long row of *no, no, no* would slip by a word
                gains[row, column] = 1 - apart / SAME_WORD_SECONDS
    best = np.zeros((len(before) + 1, len(after) + 1))
    for row in range(len(before) - 1, -1, -1):
        for column in range(len(after) - 1, -1, -1):
            gain = gains[row, column]
            paired = best[row + 1, column + 1] + gain if gain else 0.0
            best[row, column] = max(paired, best[row + 1, column], best[row, column + 1])
    return _trace(gains, best)


def _trace(gains: np.ndarray, best: np.ndarray) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    row = column = 0
    while row < gains.shape[0] and column < gains.shape[1]:
        gain = gains[row, column]
        if gain and best[row, column] == best[row + 1, column + 1] + gain:
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif best[row, column] == best[row + 1, column]:
            row += 1
        else:
            column += 1
    return pairs


def _disagree(
    before: list[HeardWord],
    after: list[HeardWord],
    pairs: list[tuple[int, int]],
    start_seconds: float,
    stop_seconds: float,
) -> bool:
    """Whether a word well inside the overlap was heard by one window only."""

    def core(words: list[HeardWord]) -> set[int]:
        inside = (start_seconds + EDGE_SECONDS, stop_seconds - EDGE_SECONDS)
        return {
            index for index, word in enumerate(words) if inside[0] <= _centre(word) <= inside[1] and plain(word.text)
        }

    matched_before, matched_after = {left for left, _ in pairs}, {right for _, right in pairs}
    return bool(core(before) - matched_before or core(after) - matched_after)
