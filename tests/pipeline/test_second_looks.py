"""Second looks at a text, in the service: a correction is published and remembered, a second engine only compared."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from schemas.models import Transcript
from tests.support.kafka import Broker, Written
from tests.support.scenario import Outcomes, event, make_clip, serve_these, settings_for
from tests.support.scripted_chat import Question, ScriptedChat

pytestmark = [pytest.mark.kafka, pytest.mark.patient]

CALL_USD = Decimal(200 * 2 + 20 * 10) / 1_000_000
CLIP_USD = Decimal("0.0045") / 60 / 10
"""A tenth of a second of gpt-transcribe."""


def _shout(question: Question) -> str:
    return question.transcript.upper() + "!"


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcomes, list[Question]]:
    """A critical event, an equal one, and one that nobody has corrected; a second engine hears both recordings."""

    async def scene() -> tuple[Outcomes, list[Question]]:
        folder = tmp_path_factory.mktemp("refined")
        first, other = make_clip(folder, 1), make_clip(folder, 2)
        async with ScriptedChat(_shout) as api:
            settings = settings_for(
                kafka.bootstrap_servers,
                folder,
                refine_model="chatty",
                refine_base_url=api.base_url,
                refine_share=0.0,
                refine_input_usd_per_million_tokens=2.0,
                refine_output_usd_per_million_tokens=10.0,
                budget_usd_per_month=1.0,
                shadow_engine="openai",
                shadow_share=1.0,
            )
            events = [
                event("first", first.uri, critical=True),
                event("again", first.uri, critical=True),
                event("other", other.uri, reference_text="heard something"),
            ]
            environment = {"OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": "x"}
            return await serve_these(settings, *map(Written, events), **environment), api.questions

    return asyncio.run(scene())


def test_raw_and_corrected_text_are_both_published_and_remembered(run: tuple[Outcomes, list[Question]]) -> None:
    found, questions = run
    texts = [Transcript.model_validate(found.transcript(name).json) for name in ("first", "again")]
    assert [text.refined_text for text in texts] == [text.text.upper() + "!" for text in texts]
    assert [question.transcript for question in questions] == [texts[0].text], "one call for both"
    (entry,) = [one.json for one in found.entries.values() if one.json["refined_text"] is not None]
    assert (entry["text"], entry["refined_text"]) == (texts[0].text, texts[0].refined_text)
    assert found.transcript("other").json["refined_text"] is None


def test_the_metric_says_what_the_correction_took_and_cost(run: tuple[Outcomes, list[Question]]) -> None:
    found, _ = run
    metric = _leader(found)
    assert metric["latency_seconds"]["refine"] > 0
    lines = [(line["engine"], line["outcome"]) for line in metric["attempts"]]
    assert lines == [("simulated", "ok"), ("openai", "ok"), ("refine", "ok")]
    costs = [Decimal(str(line["cost_usd"])) for line in metric["attempts"]]
    assert costs == [0, CLIP_USD, CALL_USD]
    assert Decimal(str(metric["cost_usd"])) == sum(costs)
    assert found.metric("other")["latency_seconds"]["refine"] is None


def test_of_a_second_engine_only_its_disagreement_and_its_cost_are_published(
    run: tuple[Outcomes, list[Question]],
) -> None:
    found, _ = run
    for metric in (_leader(found), found.metric("other")):
        assert metric["disagreement"]["against"] == "openai"
        assert metric["disagreement"]["words"] == 2
        assert metric["disagreement"]["errors"] >= 2
        assert metric["latency_seconds"]["shadow"] > 0
        assert metric["engine"]["name"] == "simulated"
    assert all(record.json["text"].startswith("simulated") for record in found.transcripts)
    (cached,) = [record.json for record in found.metrics if record.json["cached"]]
    assert (cached["disagreement"], cached["cost_usd"], cached["attempts"]) == (None, 0.0, [])


def test_a_reference_tells_of_both_engines_how_far_they_are_off(run: tuple[Outcomes, list[Question]]) -> None:
    found, _ = run
    metric = found.metric("other")
    assert metric["wer"]["words"] == metric["shadow_wer"]["words"] == 2
    assert metric["shadow_wer"]["engine"]["name"] == "openai"
    # "heard something" against two other words, and against "heard 0 10 seconds <checksum>"
    assert (metric["wer"]["errors"], metric["shadow_wer"]["errors"]) == (2, 4)
    assert _leader(found)["shadow_wer"] is None


def _leader(found: Outcomes) -> Any:
    """The metric of whichever of the two equal events was heard."""
    (metric,) = [one for one in map(found.metric, ("first", "again")) if not one["cached"]]
    return metric
