"""The text side of Whisper, the same for both of its engines: prompts, and words in time.

Runs in the engine child. No weights here.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer

from consumer.core.hearing import HeardWord, Samples
from consumer.core.whisper import UNSPACED, WINDOW_SAMPLES

WINDOW_FRAMES = 3000
"""Always so many: shortened windows are quicker, and heard wrong."""
MEL_HOP_SAMPLES = 160
TOKEN_SECONDS = 0.02
"""One encoder position, and so the grain of word times."""
MAX_TOKENS = 448
"""Prompt and text together."""
MAX_TEXT_TOKENS = MAX_TOKENS // 2
"""Text alone, as CTranslate2 has it, the end mark included."""
MAX_TERMS_TOKENS = MAX_TEXT_TOKENS - 1
"""What comes before the text of a window; of longer terms the last ones count, as OpenAI does it."""
_MARKS = frozenset(string.punctuation + "。，！？：、”’…")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A Whisper tokenizer: what the model is asked with, and what its answers mean."""

    tokenizer: tokenizers.Tokenizer
    languages: tuple[str, ...]
    """The model's own codes; ("en",) for a model of one language."""
    terms: tuple[int, ...] = ()
    """What the model is told was said before: names and terms in their spelling."""

    @classmethod
    def read(cls, path: Path, *, multilingual: bool, terms: str | None = None) -> "Vocabulary":
        """From a ``tokenizer.json``."""
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        known = tuple(code for code in _LANGUAGE_CODES if tokenizer.token_to_id(f"<|{code}|>") is not None)
        said = tokenizer.encode(f" {terms.strip()}", add_special_tokens=False).ids if terms and terms.strip() else []
        return cls(tokenizer, known if multilingual else ("en",), tuple(said[-MAX_TERMS_TOKENS:]))

    @property
    def multilingual(self) -> bool:
        return len(self.languages) > 1

    def prompt(self, language: str) -> list[int]:
        """What the model is asked with: the start, and for many languages which one and what for."""
        return list(self._in(language).sot_sequence)

    def before(self) -> list[int]:
        """What goes before ``prompt``: the terms; nothing without terms."""
        return [self._id("<|startofprev|>"), *self.terms] if self.terms else []

    def no_timestamps(self) -> int:
        return int(self._id("<|notimestamps|>"))

    def end(self) -> int:
        return int(self._id("<|endoftext|>"))

    def no_speech(self) -> int:
        """Its probability at the very first position says how likely it is that nobody speaks."""
        found = self.tokenizer.token_to_id("<|nospeech|>")
        return int(found if found is not None else self._id("<|nocaptions|>"))

    def language_ids(self) -> dict[int, str]:
        return {int(self._id(f"<|{code}|>")): code for code in self.languages}

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that are text: everything below the first special one."""
        end = self.end()
        return [token for token in tokens if token < end]

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(self.spoken(tokens))).strip()

    def words(
        self,
        tokens: list[int],
        language: str,
        path: npt.NDArray[np.intp],
        probabilities: Sequence[float],
        audio_seconds: float,
    ) -> tuple[HeardWord, ...]:
        """Words in time, from an alignment.

        ``tokens`` are text only; ``path`` has a row ``(token, encoder position)`` for each step of the alignment,
        the end mark counting as the last token; ``probabilities`` are the tokens'. Where the language has spaces a
        word is what stands between two. Times lie within 0 to ``audio_seconds`` and never run backwards.
        """
        if not tokens:
            return ()
        texts, pieces = self._in(language).split_to_word_tokens([*tokens, self.end()])
        steps = np.diff(path[:, 0], prepend=path[0, 0] - 1) > 0
        token_starts = np.clip(path[steps, 1] * TOKEN_SECONDS, 0, audio_seconds)
        bounds = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
        words: list[HeardWord] = []
        for text, first, last in zip(texts[:-1], bounds[:-1], bounds[1:], strict=True):
            start, end = float(token_starts[first]), float(token_starts[last])
            confidence = float(np.clip(np.mean(probabilities[first:last]), 0, 1))
            words.append(HeardWord(text, round(start, 3), round(end, 3), round(confidence, 4)))
        return _joined(words, spaced=language not in UNSPACED)

    def _in(self, language: str) -> Tokenizer:
        return Tokenizer(self.tokenizer, self.multilingual, task="transcribe", language=language)

    def _id(self, symbol: str) -> int:
        found = self.tokenizer.token_to_id(symbol)
        if found is None:
            raise ValueError(f"the tokenizer knows no {symbol}: this is not a Whisper tokenizer")
        return int(found)


def in_window(chunk: Samples) -> Samples:
    """The chunk at the head of 30 s, silence after it. Raises ValueError for more than 30 s."""
    if len(chunk) > WINDOW_SAMPLES:
        raise ValueError(f"a chunk of {len(chunk)} samples is longer than Whisper's 30 s: this is a bug")
    window = np.zeros(WINDOW_SAMPLES, np.float32)
    window[: len(chunk)] = chunk
    return window


def mel_frames(chunk: Samples) -> int:
    """How many of a window's 3000 frames the chunk fills; at least two, one encoder position."""
    return max(2, min(WINDOW_FRAMES, -(-len(chunk) // MEL_HOP_SAMPLES)))


def _joined(pieces: list[HeardWord], *, spaced: bool) -> tuple[HeardWord, ...]:
    """Pieces that belong to the word before them (a comma, the rest of ``ill-disposed``) join it."""
    words: list[HeardWord] = []
    for piece in pieces:
        text = piece.text.strip()
        mark = all(letter in _MARKS for letter in text)
        if words and (mark or (spaced and not piece.text.startswith(" "))):
            last = words[-1]
            end = last.end_seconds if mark else piece.end_seconds
            words[-1] = HeardWord(last.text + text, last.start_seconds, end, last.confidence)
        elif text:
            words.append(replace(piece, text=text))
    return tuple(words)
