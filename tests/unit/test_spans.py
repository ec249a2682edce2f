"""Spans: whose child an event's processing is, and what travels on."""

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from consumer.core.model import Record
from consumer.telemetry.spans import EventSpan, Ids, Tracing, current_ids

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = ("traceparent", f"00-{TRACE}-{PARENT}-01".encode())


def _record(*headers: tuple[str, bytes], key: bytes | None = b"\xff") -> Record:
    return Record("audio.events", 2, 7, 0, key, b"", headers)


@pytest.fixture
def traced() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing("group", provider), exporter
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


def test_the_scope_says_whose_conventions_its_names_follow(traced: Traced) -> None:
    tracing, exporter = traced
    tracing.process(_record()).end()
    scope = _only(exporter).instrumentation_scope
    assert scope is not None
    assert (scope.version, scope.schema_url) == (version("earwitness"), "https://opentelemetry.io/schemas/1.40.0")


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


def _stages(exporter: InMemorySpanExporter) -> tuple[dict[str, ReadableSpan], ReadableSpan]:
    *stages, process = exporter.get_finished_spans()
    return {span.name: span for span in stages}, process


def test_stages_follow_each_other_without_a_gap_from_the_publishing_on(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    published = datetime.now(UTC) - timedelta(seconds=10)
    span.received(published)
    span.stage("fetch", 0.0)
    span.stage("decode")
    span.stage("commit")
    span.end()
    stages, process = _stages(exporter)
    assert list(stages) == ["receive", "fetch", "decode", "commit"]
    assert process.context is not None
    assert {stage.parent.span_id for stage in stages.values() if stage.parent} == {process.context.span_id}
    assert stages["receive"].start_time == round(published.timestamp() * 1e9)
    assert stages["fetch"].start_time == stages["fetch"].end_time
    for before, after in pairwise(stages.values()):
        assert before.end_time == after.start_time


def test_an_event_ends_with_its_commit(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.received(datetime.now(UTC))
    span.committed()
    span.stage("too late")
    stages, process = _stages(exporter)
    assert list(stages) == ["receive", "commit"]
    assert stages["commit"].end_time == process.end_time


def test_an_event_that_goes_elsewhere_tells_of_no_second_that_its_next_record_tells_of(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.received(datetime.now(UTC))
    left_at = datetime.now(UTC)
    span.stage("fetch", 0.0)
    span.committed(left_at)
    stages, process = _stages(exporter)
    assert stages["commit"].end_time == pytest.approx(left_at.timestamp() * 1e9, abs=5e3)
    assert (process.end_time or 0) > (stages["commit"].end_time or 0)


def test_a_stage_of_known_length_never_ends_in_the_future(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.received(datetime.now(UTC) - timedelta(seconds=1))
    span.stage("queue", 3600.0)
    span.end()
    stages, process = _stages(exporter)
    assert process.end_time is not None
    assert stages["queue"].end_time is not None
    assert stages["queue"].end_time <= process.end_time


def test_a_publisher_whose_clock_is_ahead_costs_no_stage_its_order(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.received(datetime.now(UTC) + timedelta(hours=1))
    span.stage("commit")
    span.end()
    stages, _ = _stages(exporter)
    assert stages["receive"].end_time == stages["commit"].start_time
    assert all((one.start_time or 0) <= (one.end_time or 0) for one in stages.values())


def test_a_stage_that_failed_says_so(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.received(datetime.now(UTC))
    span.stage("fetch", failed="not_found")
    span.end()
    stages, _ = _stages(exporter)
    assert stages["fetch"].status.status_code is StatusCode.ERROR
    assert dict(stages["fetch"].attributes or {}) == {"error.type": "not_found"}


def test_what_goes_on_after_the_end_draws_nothing_more(traced: Traced) -> None:
    tracing, exporter = traced
    span = tracing.process(_record())
    span.end()
    span.stage("infer")
    assert [one.name for one in exporter.get_finished_spans()] == ["process audio.events"]


async def test_a_task_that_works_for_an_event_logs_and_calls_under_its_span(traced: Traced) -> None:
    tracing, _ = traced
    span = tracing.process(_record())

    async def work() -> SpanContext:
        span.use()
        return trace.get_current_span().get_span_context()

    assert await asyncio.create_task(work()) == span.sampled
    assert not trace.get_current_span().get_span_context().is_valid
    span.end()


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


@pytest.mark.parametrize("tracestate", ["vendor=1", "vendör=1"])
def test_what_travels_on_can_be_written_as_a_header(tracestate: str) -> None:
    sent = (SENT, ("tracestate", tracestate.encode("latin-1")))
    headers = Tracing("group").process(_record(*sent)).headers()
    assert headers["traceparent"] == SENT[1].decode()
    assert headers.get("tracestate", "vendor=1") == "vendor=1"


def _sampling(share: float) -> tuple[Tracing, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(ParentBasedTraceIdRatio(share), id_generator=Ids())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing("group", provider), exporter


def _walk(tracing: Tracing, record: Record) -> tuple[EventSpan, tuple[str, str] | None]:
    """An event's way: its span, and the ids that a log line of its task has."""

    def work() -> tuple[EventSpan, tuple[str, str] | None]:
        span = tracing.process(record)
        span.use()
        span.received(datetime.now(UTC))
        span.note(outcome="transcribed")
        span.failed("not_found", "gone")
        span.stage("commit")
        span.end()
        return span, current_ids()

    return copy_context().run(work)


@pytest.mark.parametrize("sent", [None, (SENT[0], SENT[1][:-1] + b"0")])
def test_an_event_that_is_not_sampled_records_nothing_and_tells_those_who_follow(
    sent: tuple[str, bytes] | None,
) -> None:
    tracing, exporter = _sampling(0.0)
    span, ids = _walk(tracing, _record(*([sent] if sent else [])))
    assert exporter.get_finished_spans() == ()
    assert span.sampled is None
    version, trace_id, span_id, flags = span.headers()["traceparent"].split("-")
    assert (version, int(flags, 16) & TraceFlags.SAMPLED) == ("00", 0)
    assert ids == (trace_id, span_id)
    if sent:
        assert (trace_id, span_id) == (TRACE, PARENT)
    again = tracing.process(_record(("traceparent", span.headers()["traceparent"].encode())))
    assert again.headers() == span.headers()


def test_of_events_without_a_sender_those_are_recorded_that_the_sampler_picks_by_their_traces_ids() -> None:
    tracing, exporter = _sampling(0.25)
    spans = [tracing.process(_record()) for _ in range(1000)]
    for span in spans:
        span.end()
    recorded = exporter.get_finished_spans()
    assert 100 < len(recorded) < 400
    bound = TraceIdRatioBased.get_bound_for_rate(0.25)
    ids = [int(span.headers()["traceparent"][3:35], 16) for span in spans]
    assert len(set(ids)) == 1000
    kept = [one for one in ids if one & TraceIdRatioBased.TRACE_ID_LIMIT < bound]
    assert kept == [span.context.trace_id for span in recorded if span.context is not None]


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_OFF])
def test_a_sampler_that_picks_nobody_records_nobody(sampler: Sampler) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler, id_generator=Ids())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Tracing("group", provider).process(_record()).end()
    assert exporter.get_finished_spans() == ()


def test_an_event_whose_sender_was_sampled_is_recorded_whatever_the_share() -> None:
    tracing, exporter = _sampling(0.0)
    _, ids = _walk(tracing, _record(SENT))
    names = {span.name for span in exporter.get_finished_spans()}
    assert names == {"receive", "commit", "process audio.events"}
    assert ids is not None
    assert ids[0] == TRACE


def test_a_sampler_that_asks_no_sender_is_asked_itself() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(ALWAYS_ON, id_generator=Ids())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Tracing("group", provider).process(_record((SENT[0], SENT[1][:-1] + b"0"))).end()
    assert len(exporter.get_finished_spans()) == 1
