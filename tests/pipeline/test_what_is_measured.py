"""One trace tells an event's story from its publisher to its outcome; metrics count word errors."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from producer.publisher import Publisher
from schemas.codes import Header, Outcome, Reason
from tests.support.kafka import Broker, Read, Written
from tests.support.scenario import (
    Clip,
    Outcomes,
    clip_in_partition,
    event,
    fresh_service,
    outcomes,
    publish,
    settings_for,
    until_settled,
)

pytestmark = pytest.mark.kafka


@contextmanager
def _otlp_receiver() -> Iterator[tuple[str, list[Span], list[Metric]]]:
    """An OTLP/HTTP receiver: its address, and the spans and metrics it was sent."""
    spans: list[Span] = []
    metrics: list[Metric] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/metrics":
                for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    metrics.extend(metric for scope in measured.scope_metrics for metric in scope.metrics)
            else:
                assert self.path == "/v1/traces"
                for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans.extend(span for scope in traced.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the library's name)
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans, metrics
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Run:
    """Spans of both sides, and what came out."""

    clips: dict[str, Clip] = field(default_factory=dict)
    topic: str = ""
    sent: dict[str, ReadableSpan] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    """Those of each collection, the last one last."""
    found: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))

    def processed(self, name: str) -> list[Span]:
        """The spans of an event's processing, in order."""
        found = [span for span in self.spans if _attributes(span).get("earwitness.event_id") == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def below(self, process: Span) -> dict[str, Span]:
        """The spans below it, in order."""
        below = [span for span in self.spans if span.parent_span_id == process.span_id]
        below.sort(key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))
        assert {span.trace_id for span in below} == {process.trace_id}
        return {span.name: span for span in below}

    def stages_of(self, process: Span) -> dict[str, Span]:
        """Those of its stages."""
        others = ("speech_to_text", "process")  # where it was moved to: nobody had sent a trace along
        return {name: span for name, span in self.below(process).items() if not name.startswith(others)}

    def published_at_ns(self, name: str) -> float:
        """When the event was published, as its metric says."""
        metric = self.found.metric(name)
        completed_at = datetime.fromisoformat(metric["completed_at"])
        return (completed_at.timestamp() - float(metric["latency_seconds"]["total"])) * 1e9


def _trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def _span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def _attributes(span: Span) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


async def _publish_traced(run: Run, bootstrap_servers: str, prefix: str) -> None:
    """With the product's own publisher, in a process that traces."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with Publisher(bootstrap_servers=bootstrap_servers, topic_prefix=prefix) as publisher:
        publisher._tracer = provider.get_tracer("test")
        for name, clip in run.clips.items():
            uri = clip.uri if name != "fails" else clip.path.with_name("missing.wav").as_uri()
            digest = None if name == "moved" else clip.digest
            await publisher.publish(uri, event_id=name, sha256=digest, reference_text=f"{clip.text} indeed")
    spans = exporter.get_finished_spans()
    run.sent = dict(zip(run.clips, spans, strict=True))
    provider.shutdown()


async def _run(kafka: Broker, folder: Path) -> Run:
    settings = settings_for(kafka.bootstrap_servers, folder)
    run = Run(topic=settings.topics.events)
    # the id "moved" is keyed elsewhere than this recording belongs
    run.clips = {"plain": clip_in_partition(folder, 0), "moved": clip_in_partition(folder, 1, start=50)}
    run.clips["fails"] = clip_in_partition(folder, 2, start=100)
    with _otlp_receiver() as (endpoint, spans, metrics):
        async with fresh_service(
            settings, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
        ) as service:
            await _publish_traced(run, kafka.bootstrap_servers, settings.topic_prefix)
            await until_settled(settings, 3, service)
            second = event("second", run.clips["plain"].uri, reference_text="something else altogether")
            silent = event("silent", run.clips["plain"].uri, reference_text=" ")
            await publish(settings, Written(second), Written(silent))
            await until_settled(settings, 5, service)
        run.spans, run.metrics = list(spans), list(metrics)
    run.found = await asyncio.to_thread(outcomes, settings)
    return run


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One traced instance."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("traces")))


def test_metrics_arrive_by_otlp_and_exemplars_lead_from_them_to_traces(run: Run) -> None:
    last = {metric.name: metric for metric in run.metrics}
    (stored,) = (point for point in last["earwitness.dead_letters"].sum.data_points)
    assert stored.as_int == 1
    points = last["earwitness.event.duration"].histogram.data_points
    assert sum(point.count for point in points) == len(run.found.metrics)
    known = {span.span_id for span in run.spans if span.name == f"process {run.topic}"}
    exemplars = {exemplar.span_id for point in points for exemplar in point.exemplars}
    assert exemplars
    assert exemplars <= known


def test_an_engines_work_lies_in_the_trace_of_the_event_that_led_it(run: Run) -> None:
    (process,) = run.processed("plain")
    heard = run.below(process)["speech_to_text simulated"]
    assert [link.span_id for link in heard.links] == [process.span_id]
    assert heard.kind == Span.SpanKind.SPAN_KIND_INTERNAL


def test_processing_is_a_child_of_sending_and_linked_to_it(run: Run) -> None:
    (process,) = run.processed("plain")
    sent = run.sent["plain"]
    assert sent.name == f"send {run.topic}"
    assert process.parent_span_id.hex() == _span_id(sent)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in process.links] == [(_trace_id(sent), _span_id(sent))]
    assert process.kind == Span.SpanKind.SPAN_KIND_CONSUMER
    assert _attributes(process)["earwitness.event_id"] == "plain"


STAGES = ("receive", "fetch", "decode", "queue", "infer", "commit")


def test_each_stage_is_a_span_below_the_processing_and_within_its_time(run: Run) -> None:
    (process,) = run.processed("plain")
    stages = run.stages_of(process)
    assert tuple(stages) == STAGES
    for stage in list(stages.values())[1:]:
        assert process.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= process.end_time_unix_nano


@pytest.mark.parametrize("name", ["plain", "fails", "moved", "second"])
def test_the_stages_tell_each_second_once_from_the_publishing_to_the_commit(run: Run, name: str) -> None:
    processed = run.processed(name)
    stages = [stage for process in processed for stage in run.stages_of(process).values()]
    for before, after in pairwise(stages):
        # where a record ends and the next one begins is told in microseconds
        assert abs(before.end_time_unix_nano - after.start_time_unix_nano) <= (len(processed) > 1) * 1000
    covered = stages[-1].end_time_unix_nano - stages[0].start_time_unix_nano
    assert covered >= 0.95 * (processed[-1].end_time_unix_nano - run.published_at_ns(name))


def test_an_event_has_the_stages_that_happened_and_the_one_that_failed_is_marked(run: Run) -> None:
    (process,) = run.processed("fails")
    stages = run.stages_of(process)
    assert list(stages) == ["receive", "fetch", "commit"]
    assert [name for name, stage in stages.items() if stage.status.code] == ["fetch"]


def test_what_was_heard_before_has_no_stage_of_hearing(run: Run) -> None:
    assert not {"decode", "queue", "infer"} & set(run.stages_of(run.processed("second")[-1]))


def test_the_transcript_continues_the_trace(run: Run) -> None:
    (process,) = run.processed("plain")
    assert _parent(run.found.transcript("plain")) == (process.trace_id.hex(), process.span_id.hex())


def test_a_moved_event_is_one_trace_with_both_its_processings(run: Run) -> None:
    first, second = run.processed("moved")
    assert [_attributes(span)["earwitness.outcome"] for span in (first, second)] == ["moved", "transcribed"]
    assert {span.parent_span_id.hex() for span in (first, second)} == {_span_id(run.sent["moved"])}
    assert _parent(run.found.transcript("moved")) == (second.trace_id.hex(), second.span_id.hex())


def test_a_dead_letter_is_an_error_in_its_trace(run: Run) -> None:
    (process,) = run.processed("fails")
    assert process.status.code == Status.StatusCode.STATUS_CODE_ERROR
    assert _attributes(process)["error.type"] == Reason.NOT_FOUND
    assert _parent(run.found.dead_letter("fails")) == (process.trace_id.hex(), process.span_id.hex())
    assert run.found.metric("fails")["outcome"] == Outcome.DEAD_LETTERED


def _parent(record: Read) -> tuple[str, str]:
    _, trace_id, span_id, _ = (record.header(Header.TRACEPARENT) or b"").decode().split("-")
    return trace_id, span_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"errors": 1, "words": 3}),
        ("moved", {"errors": 1, "words": 3}),
        ("second", {"errors": 3, "words": 3}),
        ("silent", None),
        ("fails", None),
    ],
)
def test_a_reference_text_gives_errors_and_words(run: Run, name: str, expected: dict[str, int] | None) -> None:
    assert run.found.metric(name)["wer"] == expected


def test_a_cached_transcript_is_measured_against_its_own_reference(run: Run) -> None:
    assert run.found.transcript("second").json["cached"]


@pytest.mark.parametrize("name", ["plain", "moved"])
def test_the_metric_says_where_the_time_went(run: Run, name: str) -> None:
    latency = run.found.metric(name)["latency_seconds"]
    stages = ["fetch", "decode", "queue", "infer", "commit"]
    assert all(latency[stage] is not None for stage in stages)
    assert sum(latency[stage] for stage in stages) <= latency["total"] + 0.05
