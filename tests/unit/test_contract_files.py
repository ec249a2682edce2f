"""The published contract: schemas that match the models, and bytes of every version that must still decode."""

import gc
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import generate
from schemas.codec import decode_event, encode
from schemas.models import CONTRACT, EngineRef, Recognised, Word, json_schema

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        json.loads((generate.FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")),
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )


def test_the_committed_schemas_are_those_of_the_models() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in generate.FOLDER.iterdir()}
    assert committed == generate.rendered(), "run `python -m schemas.generate`"


def test_there_is_a_golden_value_of_everything_on_a_topic() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CONTRACT)


def test_writing_a_long_transcript_out_makes_no_work_for_the_garbage_collector() -> None:
    word = Word(start_seconds=0.0, end_seconds=1.0, text="a", confidence=1.0)
    engine = EngineRef(name="x", model="m")
    long = Recognised(text="", engine=engine, audio_seconds=1.0, words=[word] * 20_000)
    collections = list[str]()

    def collecting(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.callbacks.append(collecting)
    try:
        assert len(encode(long)) > 1_000_000
    finally:
        gc.callbacks.remove(collecting)
    assert len(collections) <= 2  # one that was about to begin anyhow


@pytest.mark.parametrize("name", CONTRACT)
def test_golden_bytes_of_version_1_still_decode_to_what_they_say(name: str) -> None:
    said: dict[str, Any] = json.loads(golden(name))
    decoded = CONTRACT[name].model_validate_json(golden(name))
    again = json.loads(encode(decoded))
    assert _as_far_as(again, said) == said


def _as_far_as(value: Any, said: Any) -> Any:
    """Without the fields that were added since."""
    if isinstance(said, dict):
        return {field: _as_far_as(value[field], inner) for field, inner in said.items()}
    if isinstance(said, list) and len(value) == len(said):
        return [_as_far_as(one, inner) for one, inner in zip(value, said, strict=True)]
    return value


@pytest.mark.parametrize("name", CONTRACT)
def test_golden_bytes_and_what_is_written_today_are_valid_under_the_published_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(name))
    validator(name).validate(json.loads(golden(name)))
    validator(name).validate(json.loads(encode(CONTRACT[name].model_validate_json(golden(name)))))


def test_the_golden_event_is_an_event_to_the_service() -> None:
    assert decode_event(golden("audio-event")).event_id == "call-2026-11-24-0007"


@pytest.mark.parametrize("name", CONTRACT)
def test_fields_that_a_newer_side_adds_are_kept_out_of_the_way(name: str) -> None:
    newer = {**json.loads(golden(name)), "of_a_later_version": [1, 2]}
    assert "of_a_later_version" not in CONTRACT[name].model_validate(newer).model_dump()
    validator(name).validate(newer)


def test_the_schema_refuses_what_the_service_would_refuse() -> None:
    event = json.loads(golden("audio-event"))
    for broken in ({"uri": "gopher://x/y"}, {"event_id": ""}, {"sha256": "xyz"}, {"schema_version": 2}):
        assert list(validator("audio-event").iter_errors({**event, **broken})), broken
