"""Spans of engines, as their real callers make them: speech by an API, corrections by a chat model, a second engine."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from consumer.core.model import Wish
from consumer.engines.choose import choose_engine, choose_shadow
from consumer.engines.shadow import Shadow
from consumer.errors import EventError, ReasonedError
from consumer.telemetry import calls
from tests.engines.api_bench import KEY, noise, running, settings, spooled
from tests.engines.test_refiner import DIGEST, heard_text, refining
from tests.support.scripted_api import Reply, ScriptedApi, failed, hang, html
from tests.support.scripted_chat import ScriptedChat


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(calls, "_tracer", provider.get_tracer("test"))
    yield kept
    provider.shutdown()


def _only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    assert KEY not in span.to_json()
    return span


@pytest.mark.parametrize(
    ("reply", "told"), [(hang(), "TimeoutError"), (failed(500), "500"), (html(), "unusable_answer")]
)
async def test_a_call_that_heard_nothing_says_why(
    exporter: InMemorySpanExporter, tmp_path: Path, reply: Reply, told: str
) -> None:
    async with ScriptedApi([reply]) as api, running(api, api_timeout_seconds=0.3, api_attempts=1) as engine:
        with pytest.raises(ReasonedError):
            await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    span = _only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == told


@pytest.mark.parametrize(("share", "why"), [(0.0, "no_share_yet"), (1.0, "asked_to_wait")])
async def test_an_event_that_queues_at_a_shut_api_says_what_it_waits_for(
    exporter: InMemorySpanExporter, tmp_path: Path, share: float, why: str
) -> None:
    wish = Wish(deadline=time.monotonic() + 5.0)
    async with ScriptedApi() as api, running(api) as engine:
        if share:
            engine.gate.hold(30.0)
        else:
            engine.gate.set_share(share)
        with calls._tracer.start_as_current_span("process"), pytest.raises(EventError):
            await engine.transcribe(spooled(tmp_path, noise(0.3)), wish)
    (told,) = _only(exporter).events
    assert (told.name, (told.attributes or {})["earwitness.why"]) == ("api_shut", why)
    assert api.calls == []


async def test_a_correction_is_a_call_with_the_tokens_that_it_took(exporter: InMemorySpanExporter) -> None:
    async with ScriptedChat() as api, refining(api) as refiner:
        await refiner.refine(heard_text(), DIGEST, Wish())
        port = int(api.base_url.rpartition(":")[2].partition("/")[0])
    span = _only(exporter)
    assert (span.name, span.kind, span.status.status_code) == ("chat chatty", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "chatty",
        "gen_ai.response.model": "m",
        "gen_ai.response.id": "c",
        "gen_ai.usage.input_tokens": 200,
        "gen_ai.usage.output_tokens": 20,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
    }


@pytest.mark.parametrize(("reply", "told"), [(failed(500), "500"), (html(), "unusable_answer")])
async def test_a_correction_that_failed_says_why(exporter: InMemorySpanExporter, reply: Reply, told: str) -> None:
    async with ScriptedChat(lambda _: "", reply) as api, refining(api) as refiner:
        await refiner.refine(heard_text(), DIGEST, Wish())
    assert (_only(exporter).attributes or {})["error.type"] == told


async def test_what_a_second_engine_of_ones_own_hears_is_seen_too(
    exporter: InMemorySpanExporter, tmp_path: Path
) -> None:
    chosen = settings(engine="simulated", shadow_engine="simulated", shadow_share=1.0, simulated_realtime_factor=1000.0)
    engine = choose_shadow(chosen, choose_engine(chosen))
    assert engine is not None
    await engine.start()
    with calls._tracer.start_as_current_span("process") as process:
        await Shadow(engine, chosen).compare(heard_text(), spooled(tmp_path, noise(1.0)), Wish())
    await engine.stop()
    batch, _ = exporter.get_finished_spans()
    assert (batch.name, batch.parent) == ("speech_to_text simulated", process.get_span_context())
