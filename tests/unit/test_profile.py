"""What of the settings decides the text, and so belongs to the fingerprint of the wanted profile."""

import pytest

from consumer.engines.choose import profile_of
from consumer.settings import Settings


def _profile(engine: str, **options: object) -> str:
    return profile_of(Settings.model_validate({"engine": engine, **options}))("en")


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("whisper", {"silence_gate": "off"}),
        ("ctranslate2", {"silence_gate": "off"}),
        ("ctc", {"silence_gate": "on"}),
        ("whisper", {"whisper_prompt": "Anne Elliot"}),
        ("ctranslate2", {"whisper_prompt": "Anne Elliot"}),
    ],
)
def test_an_option_that_changes_the_text_changes_the_profile(engine: str, options: dict[str, str]) -> None:
    assert _profile(engine, **options) != _profile(engine)


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("whisper", {"silence_gate": "on"}),
        ("ctc", {"silence_gate": "off"}),
        ("ctc", {"whisper_prompt": "Anne Elliot"}),
        ("openai", {"silence_gate": "on"}),
        ("simulated", {"silence_gate": "on", "whisper_prompt": "Anne Elliot"}),
    ],
)
def test_one_that_does_nothing_leaves_the_profile_as_it_is(engine: str, options: dict[str, str]) -> None:
    assert _profile(engine, **options) == _profile(engine)


def test_two_prompts_are_two_profiles() -> None:
    assert _profile("whisper", whisper_prompt="Anne") != _profile("whisper", whisper_prompt="Ann")
