"""Guards against text that Whisper makes up: what is heard again, which hearing is kept, and what is dropped. Pure.

    what was heard            what is done
    nobody seems to speak     dropped at once: a second hearing would only make up something else
    a loop                    heard again; a loop that stays is dropped
    too many words            heard again; if it stays so, nobody can have said it, and it is dropped
    unsure words              heard again

A window is heard again alone, with a beam and without sampling, so the same sound always gives the same text.
Each guard that acted leaves its code in the warnings.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import replace

from consumer.core.hearing import HeardChunk
from consumer.core.languages import WITHOUT_SPACES
from consumer.core.seams import plain
from schemas.codes import WarningCode

Decoded = tuple[HeardChunk, list[int]]
"""What was heard in a window, still without words, and the tokens of its text."""

RETRY_BEAM = 5
RETRY_NO_REPEAT_NGRAM = 3
"""Tokens in a row that may not come twice in the second hearing of a loop."""
MAX_COMPRESSION_RATIO = 2.4
"""Text that compresses better than this may be a loop (OpenAI's own threshold)."""

_NO_SPEECH_PROBABILITY = 0.6
_UNSURE_LOGPROB = -1.0
_SURE_LOGPROB = -0.3
_SENTENCE_WORDS = 5
_SURELY_NO_SPEECH_PROBABILITY = 0.8
_SCRAP_TOKENS = 4
_HOPELESS_LOGPROB = -1.5
_SCRAP_SECONDS = 4.0
_SCRAP_TOKENS_PER_SECOND = 0.5
_FASTEST_WORDS_PER_SECOND, _SPARE_WORDS = 8.0, 4
_FASTEST_LETTERS_PER_SECOND, _SPARE_LETTERS = 20.0, 10
"""Auctioneers reach 6 words a second, quick Japanese 12 letters; the spare ones forgive a level that misleads."""
_THRICE = re.compile(r"(\w.+?)\1\1")


def guarded(first: Decoded, sounding_seconds: float, hear_again: Callable[[int], Decoded]) -> Decoded:
    """What is believed of a window, its warnings set.

    ``sounding_seconds``: how long something can have been said in it. ``hear_again`` decodes it alone with a beam;
    it is told how many tokens in a row must not repeat (0: any may).
    """
    doubts = () if nobody_speaks(first[0], sounding_seconds) else objections(first[0], sounding_seconds)
    kept = first
    if doubts:
        second = hear_again(0 if doubts == (WarningCode.UNSURE_WORDS,) else RETRY_NO_REPEAT_NGRAM)
        kept = min(first, second, key=lambda decoded: _badness(decoded[0], sounding_seconds))
    heard, tokens = kept
    warnings = [code.value for code in doubts]
    if is_invented(heard, sounding_seconds):
        if plain(heard.text):
            warnings.append(WarningCode.TEXT_DROPPED.value)
        heard, tokens = replace(heard, text=""), []
    return replace(heard, warnings=tuple(warnings)), tokens


def objections(heard: HeardChunk, sounding_seconds: float) -> tuple[WarningCode, ...]:
    """Which guards object to a text."""
    found = []
    if is_loop(heard):
        found.append(WarningCode.REPETITION)
    if too_many_words(heard, sounding_seconds):
        found.append(WarningCode.TOO_MANY_WORDS)
    if heard.mean_logprob is not None and heard.mean_logprob < _UNSURE_LOGPROB and plain(heard.text):
        found.append(WarningCode.UNSURE_WORDS)
    return tuple(found)


def is_invented(heard: HeardChunk, sounding_seconds: float) -> bool:
    """Whether a text is not believed, whatever it says."""
    return _is_impossible(heard, sounding_seconds) or nobody_speaks(heard, sounding_seconds)


def nobody_speaks(heard: HeardChunk, sounding_seconds: float) -> bool:
    """Whether what was heard is no speech.

    OpenAI's rule: nobody seems to speak, and the words are unsure. Ours, for the *you* and *Thank you.* that Whisper
    hears in noise: nobody speaks for sure, and it is but a word or two; or there are but few words for seconds of
    sound, and one of the two signs against them. (With tiny.en room noise, hiss and hum lie above 0.78, single words
    cut out of speech below 0.7; speech 5 dB below noise still has two tokens a second, above -1.3.)
    """
    no_speech, mean_logprob = heard.no_speech_probability or 0.0, heard.mean_logprob or 0.0
    unsure = no_speech > _NO_SPEECH_PROBABILITY and mean_logprob < _UNSURE_LOGPROB
    scrap = no_speech > _SURELY_NO_SPEECH_PROBABILITY and heard.tokens <= _SCRAP_TOKENS
    few = heard.tokens <= max(_SCRAP_TOKENS, _SCRAP_TOKENS_PER_SECOND * sounding_seconds)
    signs = no_speech > _NO_SPEECH_PROBABILITY or mean_logprob < _HOPELESS_LOGPROB
    return unsure or scrap or (few and signs and sounding_seconds >= _SCRAP_SECONDS) or not plain(heard.text)


def is_loop(heard: HeardChunk) -> bool:
    """Whether the model has lost itself in a loop: the text repeats itself, and it is but a few words or not sure.

    Whole sentences that are really said again and again (an announcement, a song) are heard with certainty, and to
    forbid repeats would garble them. (With tiny.en, sentences said three to nine times lie above -0.19.)
    """
    if not repeats(heard.text):
        return False
    unit = _THRICE.search(heard.text.casefold())
    a_sentence = unit is not None and len(unit[1].split()) >= _SENTENCE_WORDS
    return not a_sentence or (heard.mean_logprob or 0.0) < _SURE_LOGPROB


def repeats(text: str) -> bool:
    """Whether a text compresses as loops do, and says something three times in a row."""
    return compression_ratio(text) > MAX_COMPRESSION_RATIO and _THRICE.search(text.casefold()) is not None


def compression_ratio(text: str) -> float:
    """Bytes of the text for each byte of it compressed; 0 without text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def too_many_words(heard: HeardChunk, sounding_seconds: float) -> bool:
    """Whether nobody could say so much in the time; letters count where a language puts no spaces between words."""
    if heard.language in WITHOUT_SPACES:
        return len(plain(heard.text)) > _SPARE_LETTERS + _FASTEST_LETTERS_PER_SECOND * sounding_seconds
    return len(heard.text.split()) > _SPARE_WORDS + _FASTEST_WORDS_PER_SECOND * sounding_seconds


def _badness(heard: HeardChunk, sounding_seconds: float) -> tuple[bool, float]:
    """The better of two hearings has the lower one: a possible text before an impossible one, then the likelier."""
    impossible = _is_impossible(heard, sounding_seconds) or not plain(heard.text)
    return impossible, -(heard.mean_logprob or 0.0)


def _is_impossible(heard: HeardChunk, sounding_seconds: float) -> bool:
    return is_loop(heard) or too_many_words(heard, sounding_seconds)
