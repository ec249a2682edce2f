"""What was heard as subtitles: SubRip (SRT) cues of at most two lines, timed by words where words have times. Pure."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from schemas.models import Recognised, Segment

LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 6.0
SHORTEST_SECONDS = 1.0
"""A cue stays at least so long if the next one lets it."""
PAUSE_SECONDS = 0.8
"""Silence that ends a cue."""
_SENTENCE_END = (".", "?", "!", "…", "。", "？", "！")
_PIECE = re.compile(rf"\s*\S{{1,{LINE_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen, in seconds of the recording; ``text`` as spoken, not yet in lines."""

    start_seconds: float
    end_seconds: float
    text: str

    @property
    def lines(self) -> list[str]:
        """The text as it is shown."""
        return textwrap.wrap(self.text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def srt(recognised: Recognised) -> str:
    """The recording as an SRT file; empty where nothing was said."""
    blocks = (
        f"{number}\n{_clock(cue.start_seconds)} --> {_clock(cue.end_seconds)}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues(recognised), start=1)
    )
    return "\n".join(blocks)


def cues(recognised: Recognised) -> list[Cue]:
    """Cues in order, none reaching into the next; words without times share their segment's evenly by length."""
    found: list[Cue] = []
    for piece in _pieces(recognised):
        if found and (joined := _joined(found[-1], piece)) is not None:
            found[-1] = joined
        else:
            found.append(replace(piece, text=piece.text.strip()))
    return _apart(found)


def _pieces(recognised: Recognised) -> Iterator[Cue]:
    """Words, each with the space before it, if there is one."""
    if recognised.words:
        for word in recognised.words:
            yield Cue(word.start_seconds, word.end_seconds, f" {word.text.strip()}")
        return
    whole = Segment(start_seconds=0.0, end_seconds=recognised.audio_seconds, text=recognised.text)
    for segment in recognised.segments or [whole]:
        yield from _spread(segment)


def _spread(segment: Segment) -> Iterator[Cue]:
    text = f" {segment.text.strip()}"
    seconds_each = (segment.end_seconds - segment.start_seconds) / len(text)
    for found in _PIECE.finditer(text):
        start, end = (segment.start_seconds + place * seconds_each for place in found.span())
        yield Cue(start, end, found.group())


def _joined(cue: Cue, piece: Cue) -> Cue | None:
    """The cue with one word more, or None where a new one begins."""
    longer = Cue(cue.start_seconds, max(cue.end_seconds, piece.end_seconds), cue.text + piece.text)
    full = len(longer.lines) > LINES or longer.end_seconds - longer.start_seconds > LONGEST_SECONDS
    paused = piece.start_seconds - cue.end_seconds >= PAUSE_SECONDS
    # not after every full stop: "Mr." would stand alone
    said = cue.text.endswith(_SENTENCE_END) and len(cue.text) >= LINE_CHARACTERS
    return None if full or paused or said else longer


def _apart(found: list[Cue]) -> list[Cue]:
    stretched = [replace(cue, end_seconds=max(cue.end_seconds, cue.start_seconds + SHORTEST_SECONDS)) for cue in found]
    for place, (cue, following) in enumerate(pairwise(stretched)):
        stretched[place] = replace(cue, end_seconds=min(cue.end_seconds, following.start_seconds))
    return stretched


def _clock(seconds: float) -> str:
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
