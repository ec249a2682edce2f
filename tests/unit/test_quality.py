"""Word error counts."""

import pytest

from consumer.core.quality import word_errors
from schemas.models import WordErrors


def test_case_punctuation_and_spelling_are_no_errors() -> None:
    assert word_errors("Mr. Smith's colour is RED!", "mister smith's color is red", "en-GB") == WordErrors(
        errors=0, words=6
    )


def test_each_kind_of_error_counts_once() -> None:
    counted = word_errors("one cat sat on the mat", "one dog sat the mat today", "en")
    assert counted == WordErrors(errors=3, words=6)


def test_silence_where_words_were_said_is_all_errors() -> None:
    assert word_errors("hello there", "", "en") == WordErrors(errors=2, words=2)


@pytest.mark.parametrize("reference", ["", "   ", "?!"])
def test_without_reference_words_there_is_no_figure(reference: str) -> None:
    assert word_errors(reference, "hello", "en") is None


def test_other_languages_keep_their_letters() -> None:
    assert word_errors("Grüße, schöne Welt", "grüße schone welt", "de") == WordErrors(errors=1, words=3)


def test_a_language_without_spaces_is_counted_by_its_characters() -> None:
    assert word_errors("你好世界", "你好地界", "zh") == WordErrors(errors=1, words=4)
