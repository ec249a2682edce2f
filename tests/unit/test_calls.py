"""Spans of engines' work: what they say, what they never say, and to whom they belong."""

import asyncio
from collections.abc import Iterator
from contextvars import Context, copy_context

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from consumer.core.model import Record
from consumer.engines.served import BatchReport
from consumer.engines.watch import BatchWatch
from consumer.telemetry import calls
from consumer.telemetry.spans import Tracing


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[trace.Tracer, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(calls, "_tracer", provider.get_tracer("test"))
    yield provider.get_tracer("test"), exporter
    provider.shutdown()


Traced = tuple[trace.Tracer, InMemorySpanExporter]
AT = httpx2.URL("https://api.example/v1/")


def _only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


class _RefusedError(Exception):
    status_code = 429


class _Usage:
    input_tokens, output_tokens = 14, 45


class _Answer:
    text, usage = "what was said", _Usage()


def test_a_call_says_what_was_asked_of_whom_and_never_what_was_said(tracer: Traced) -> None:
    with calls.calling("gpt-transcribe", AT, audio_seconds=12.5) as call:
        call.answered(_Answer())
    span = _only(tracer[1])
    assert (span.name, span.kind) == ("speech_to_text gpt-transcribe", SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "speech_to_text",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-transcribe",
        "gen_ai.usage.input_tokens": 14,
        "gen_ai.usage.output_tokens": 45,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "api.example",
        "server.port": 443,
        "earwitness.audio_seconds": 12.5,
    }


@pytest.mark.parametrize(
    ("error", "told"), [(_RefusedError("key sk-secret"), "429"), (TimeoutError("sk-secret"), "TimeoutError")]
)
def test_a_call_that_failed_says_how_without_the_servers_words(tracer: Traced, error: Exception, told: str) -> None:
    with pytest.raises(type(error)), calls.calling("m", AT):
        raise error
    span = _only(tracer[1])
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == told
    assert "sk-secret" not in span.to_json()


def _member(tracer: trace.Tracer, name: str) -> tuple[trace.Span, Context]:
    span = tracer.start_span(name)
    with trace.use_span(span):
        return span, copy_context()


def test_a_batch_is_linked_to_each_event_whose_chunks_it_held(tracer: Traced) -> None:
    first, its_context = _member(tracer[0], "first")
    second, other_context = _member(tracer[0], "second")
    members = [its_context, its_context, other_context, Context()]
    BatchWatch("tiny")(BatchReport(["a", "b", "c", "d"], None, 6.0, 8.0, 0.5, members, 1))
    batch = _only(tracer[1])
    assert (batch.name, batch.kind) == ("speech_to_text tiny", SpanKind.INTERNAL)
    assert [link.context for link in batch.links] == [first.get_span_context(), second.get_span_context()]
    assert batch.parent == first.get_span_context()
    attributes = dict(batch.attributes or {})
    assert (attributes["earwitness.batch.chunks"], attributes["earwitness.batch.padded_seconds"]) == (4, 8.0)
    assert batch.end_time is not None
    assert batch.start_time is not None
    assert batch.end_time - batch.start_time == 500_000_000


def test_a_batch_that_failed_is_seen_in_its_events_traces_and_is_no_work_done(tracer: Traced) -> None:
    _, context = _member(tracer[0], "event")
    watch = BatchWatch("tiny")
    watch(BatchReport(["a"], None, 6.0, 8.0, 0.5, [context], 1, "WorkerDiedError"))
    batch = _only(tracer[1])
    assert batch.status.status_code is StatusCode.ERROR
    assert (batch.attributes or {})["error.type"] == "WorkerDiedError"
    assert (watch.load.chunks, watch.load.busy_seconds) == (0, 0.0)


def test_a_batch_of_events_that_nobody_traces_has_no_span(tracer: Traced) -> None:
    BatchWatch("tiny")(BatchReport(["a"], None, 6.0, 8.0, 0.5, [Context()], 1))
    assert tracer[1].get_finished_spans() == ()


async def test_a_call_lies_below_the_event_that_its_task_works_for(tracer: Traced) -> None:
    event = tracer[0].start_span("process")

    async def hear() -> None:
        with calls.calling("m", AT):
            await asyncio.sleep(0)

    with trace.use_span(event):
        task = asyncio.create_task(hear())
    await task
    assert _only(tracer[1]).parent == event.get_span_context()


def test_a_call_for_an_event_that_is_not_recorded_is_not_either_and_begins_no_trace(tracer: Traced) -> None:
    sent = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    provider = TracerProvider(ParentBased(ALWAYS_ON))

    def work() -> None:
        Tracing("group", provider).process(Record("audio.events", 0, 0, 0, None, b"", (sent,))).use()
        with calls.calling("m", AT) as call:
            call.answered(_Answer())

    copy_context().run(work)
    assert tracer[1].get_finished_spans() == ()
    with calls.calling("m", AT):
        pass
    assert len(tracer[1].get_finished_spans()) == 1, "what is done for no event is a trace of its own"
