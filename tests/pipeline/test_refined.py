"""A corrected text is published beside the heard one, is remembered with it, and is paid for once."""

import asyncio
from decimal import Decimal

import pytest

from schemas.models import Transcript
from tests.support.kafka import Broker, Written
from tests.support.scenario import Outcomes, event, make_clip, serve_these, settings_for
from tests.support.scripted_chat import Question, ScriptedChat

pytestmark = pytest.mark.kafka

CALL_USD = Decimal(200 * 2 + 20 * 10) / 1_000_000


def _shout(question: Question) -> str:
    return question.transcript.upper() + "!"


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcomes, list[Question]]:
    """A critical event, an equal one, and one that nobody has corrected."""

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
            )
            events = [
                event("first", first.uri, critical=True),
                event("again", first.uri, critical=True),
                event("other", other.uri),
            ]
            return await serve_these(settings, *map(Written, events)), api.questions

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
    paid = [found.metric(name) for name in ("first", "again", "other") if found.metric(name)["cost_usd"]]
    (metric,) = paid
    assert metric["latency_seconds"]["refine"] > 0
    assert [(line["engine"], line["outcome"]) for line in metric["attempts"]] == [("simulated", "ok"), ("refine", "ok")]
    assert Decimal(str(metric["cost_usd"])) == Decimal(str(metric["attempts"][-1]["cost_usd"])) == CALL_USD
    assert found.metric("other")["latency_seconds"]["refine"] is None
