"""Word errors between two texts; pure.

The first call imports jiwer and the normaliser (a few tenths of a second), and long texts take tens of
milliseconds: call it in a thread.
"""

from functools import lru_cache
from typing import Protocol

from consumer.core.languages import WITHOUT_SPACES, primary_code
from schemas.models import WordErrors


class _Normaliser(Protocol):
    def __call__(self, text: str) -> str: ...


def word_errors(reference: str, hypothesis: str, language: str | None) -> WordErrors | None:
    """Substitutions, insertions and deletions against the reference's words, after the field's usual normalisation.

    ``language`` is a BCP 47 tag. None if the reference holds no words: a rate against nothing means nothing.
    """
    import jiwer

    normalise = _normaliser(primary_code(language or ""))
    wanted, heard = normalise(reference).split(), normalise(hypothesis).split()
    if not wanted:
        return None
    counts = jiwer.process_words(" ".join(wanted), " ".join(heard))
    return WordErrors(errors=counts.substitutions + counts.insertions + counts.deletions, words=len(wanted))


@lru_cache(maxsize=8)
def _normaliser(primary: str) -> _Normaliser:
    if primary == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        english: _Normaliser = EnglishTextNormalizer()
        return english
    # characters are counted where words are not set apart
    from whisper_normalizer.basic import BasicTextNormalizer

    basic: _Normaliser = BasicTextNormalizer(split_letters=primary in WITHOUT_SPACES)
    return basic
