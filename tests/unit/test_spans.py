"""Spans: whose child an event's processing is, and what travels on."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from consumer.core.model import Record
from consumer.telemetry.spans import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = ("traceparent", f"00-{TRACE}-{PARENT}-01".encode())


def _record(*headers: tuple[str, bytes], key: bytes | None = b"\xff") -> Record:
    return Record("audio.events", 2, 7, 0, key, b"", headers)


@pytest.fixture
def traced() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing("group")
    tracing._tracer = provider.get_tracer("test")
    yield tracing, exporter
    provider.shutdown()


Traced = tuple[Tracing, InMemorySpanExporter]


def _only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_processing_is_the_senders_child_and_linked_to_it(traced: Traced) -> None:
    tracing, exporter = traced
    tracing.process(_record(SENT)).end()
    span = _only(exporter)
    assert (span.name, span.kind) == ("process audio.events", SpanKind.CONSUMER)
    assert span.parent is not None
    assert trace.format_span_id(span.parent.span_id) == PARENT
    assert [trace.format_span_id(link.context.span_id) for link in span.links] == [PARENT]


def test_the_conventions_attributes_say_where_the_record_was(traced: Traced) -> None:
    tracing, exporter = traced
    tracing.process(_record()).end()
    attributes = dict(_only(exporter).attributes or {})
    assert attributes["messaging.destination.partition.id"] == "2"
    assert attributes["messaging.kafka.offset"] == 7
    assert attributes["messaging.consumer.group.name"] == "group"
    assert attributes["messaging.kafka.message.key"] == "\ufffd"


@pytest.mark.parametrize("header", [b"", b"nonsense", b"\xff\xff", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"])
def test_a_damaged_traceparent_begins_a_trace_of_its_own(traced: Traced, header: bytes) -> None:
    tracing, exporter = traced
    tracing.process(_record(("traceparent", header))).end()
    assert (_only(exporter).parent, len(_only(exporter).links)) == (None, 0)


def test_what_is_published_continues_the_events_own_span(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record(SENT, ("tracestate", b"vendor=1")))
    headers = span.headers()
    span.end()
    ended = _only(exporter)
    assert ended.context is not None
    assert headers["traceparent"] == f"00-{TRACE}-{trace.format_span_id(ended.context.span_id)}-01"
    assert headers["tracestate"] == "vendor=1"


def test_a_stage_that_was_timed_elsewhere_lies_where_it_was(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.stage_before("queue", 2.0, ended_seconds_ago=3.0)
    span.stage_before("never", None)
    span.end()
    stage, process = exporter.get_finished_spans()
    assert stage.name == "queue"
    assert stage.end_time is not None
    assert stage.start_time is not None
    assert process.end_time is not None
    assert stage.end_time - stage.start_time == 2_000_000_000
    assert process.end_time - stage.end_time >= 3_000_000_000


def test_a_stage_as_it_happens_is_a_child(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    with span.stage("fetch"):
        assert trace.get_current_span().get_span_context().is_valid
    span.end()
    stage, process = exporter.get_finished_spans()
    assert stage.parent is not None
    assert process.context is not None
    assert stage.parent.span_id == process.context.span_id


def test_a_dead_letter_is_an_error_with_its_reason(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.failed("not_found", "gone")
    span.note(tenant="t", absent=None)
    span.end()
    ended = _only(exporter)
    assert (ended.status.status_code, ended.status.description) == (StatusCode.ERROR, "gone")
    attributes = dict(ended.attributes or {})
    assert (attributes["error.type"], attributes["earwitness.tenant"]) == ("not_found", "t")
    assert "earwitness.absent" not in attributes


def test_without_an_exporter_the_senders_context_travels_on() -> None:
    span = Tracing("group").process(_record(SENT))
    assert span.headers() == {"traceparent": SENT[1].decode()}
    assert Tracing("group").process(_record()).headers() == {}
