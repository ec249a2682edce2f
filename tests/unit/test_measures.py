"""What reaches Prometheus and OTLP: every instrument under its name, and the values of committed outcomes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from opentelemetry.sdk.metrics.export import Histogram, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.core.event import Notes
from consumer.core.model import Record
from consumer.core.outcomes import DeadLettered, Moment, Moved, Transcribed
from consumer.settings import Settings
from consumer.status.instruments import observe
from consumer.status.vitals import Vitals
from consumer.telemetry.catalogue import INSTRUMENTS, Kind
from consumer.telemetry.loop_monitor import LoopMonitor
from consumer.telemetry.measures import Measures
from consumer.telemetry.meter import measuring
from consumer.telemetry.spans import EventSpan, Tracing
from schemas.codes import Reason, Route
from schemas.models import Attempt, AudioEvent, EngineRef, Recognised, utc_now

SETTINGS = Settings(http_port=1)
RECORD = Record("audio.events", 0, 0, 0, None, b"{}")


def _notes() -> Notes:
    event = AudioEvent(event_id="e", uri="file:///a", published_at=utc_now() - timedelta(seconds=7))
    return Notes(RECORD, event, "ab" * 32, fetch_seconds=0.2)


def transcribed(*, cached: bool = False) -> Transcribed:
    attempt = Attempt(engine="ctc", model="m", outcome="ok", audio_seconds=2.0, cost_usd=0.25, seconds=1.5)
    recognised = Recognised(text="", engine=EngineRef(name="ctc", model="m"), audio_seconds=2.0)
    route, attempts = (Route.CACHE, ()) if cached else (Route.LOCAL, (attempt,))
    return Transcribed(_notes(), recognised, route, cached, attempts=attempts, infer_seconds=None if cached else 3.0)


def _span() -> EventSpan:
    return Tracing("group").process(RECORD)


def _told(measures: Measures) -> None:
    moment = Moment(utc_now(), 0.05)
    measures.settled(transcribed(), moment, [], _span())
    measures.settled(transcribed(cached=True), moment, [], _span())
    measures.settled(DeadLettered(_notes(), Reason.NOT_FOUND, "gone", "e", "t"), moment, [], _span())
    measures.settled(Moved(_notes(), "ab" * 32, 1), moment, [], _span())
    with measures.committing():
        pass


@contextmanager
def _metered() -> Iterator[tuple[Measures, CollectorRegistry]]:
    measures, registry = Measures("audio.events", "group"), CollectorRegistry()
    with measuring("test", measures.added_to, registry=registry) as meter:
        observe(meter, Vitals(SETTINGS, LoopMonitor(), measures), measures.tally)
        yield measures, registry


def _samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_is_told_what_was_committed() -> None:
    with _metered() as (measures, registry):
        _told(measures)
        found = _samples(registry)
    sums: dict[str, float] = {}
    for (name, _), value in found.items():
        sums[name] = sums.get(name, 0.0) + value
    assert sums["earwitness_events_total"] == 4
    assert sums["earwitness_dedup_hits_total"] == 1
    assert sums["earwitness_audio_transcribed_seconds_total"] == 4.0
    assert sums["earwitness_cost_total"] == 0.25
    assert sums["earwitness_event_duration_seconds_count"] == 3
    assert sums["messaging_process_duration_seconds_count"] == 4
    assert found["earwitness_dead_letters_total", (("earwitness_reason", "not_found"),)] == 1
    assert found["earwitness_stage_duration_seconds_sum", (("earwitness_stage", "infer"),)] == 3.0
    assert found["earwitness_stage_duration_seconds_count", (("earwitness_stage", "fetch"),)] == 3
    assert sums["messaging_client_operation_duration_seconds_count"] == 1
    assert sums["gen_ai_client_operation_duration_seconds_count"] == 1


@pytest.mark.parametrize(
    ("engine", "provider", "operation"),
    [
        ("ctc", "earwitness", "speech_to_text"),
        ("openai", "openai", "speech_to_text"),
        ("refine", "openai", "chat"),
    ],
)
def test_an_attempt_is_counted_under_the_names_that_its_span_has(engine: str, provider: str, operation: str) -> None:
    attempt = Attempt(engine=engine, model="m", outcome="ok", audio_seconds=2.0, cost_usd=0.25, seconds=1.5)
    measures = Measures("audio.events", "group")
    measures.settled(replace(transcribed(), attempts=(attempt,)), Moment(utc_now(), 0.05), [], _span())
    (point,) = _collected(measures)["gen_ai.client.operation.duration"].data_points
    assert dict(point.attributes or {}) == {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": "m",
    }


def test_buckets_reach_from_a_lookup_to_a_night_and_count_the_edge_below() -> None:
    with _metered() as (measures, registry):
        _told(measures)
        found = _samples(registry)
    stage = ("earwitness_stage", "fetch")
    name = "earwitness_stage_duration_seconds_bucket"
    assert found[name, tuple(sorted([stage, ("le", "0.1")]))] == 0
    assert found[name, tuple(sorted([stage, ("le", "0.25")]))] == 3
    assert found[name, tuple(sorted([stage, ("le", "14400.0")]))] == 3


def test_two_scrapes_see_the_same_sums() -> None:
    with _metered() as (measures, registry):
        _told(measures)
        once, again = _samples(registry), _samples(registry)
    counts = [{key: value for key, value in found.items() if key[0].endswith("_count")} for found in (once, again)]
    assert counts[0] == counts[1] != {}


def _collected(measures: Measures) -> dict[str, Histogram]:
    scope = ScopeMetrics(InstrumentationScope("earwitness"), [], "")
    empty = MetricsData([ResourceMetrics(Resource({}), [scope], "")])
    (resource,) = measures.added_to(empty).resource_metrics
    found = {}
    for metric in resource.scope_metrics[-1].metrics:
        assert isinstance(metric.data, Histogram)
        found[metric.name] = metric.data
    return found


def test_a_histograms_count_is_the_sum_of_its_buckets() -> None:
    measures = Measures("audio.events", "group")
    _told(measures)
    for data in _collected(measures).values():
        for point in data.data_points:
            assert point.count == sum(point.bucket_counts) > 0
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            assert point.min - 1e-9 <= point.sum / point.count <= point.max + 1e-9
            assert point.start_time_unix_nano <= point.time_unix_nano <= time.time_ns()


def test_an_exemplar_leads_to_the_trace_of_the_event() -> None:
    provider = TracerProvider()
    tracing = Tracing("group")
    tracing._tracer = provider.get_tracer("test")
    span, measures = tracing.process(RECORD), Measures("audio.events", "group")
    measures.settled(transcribed(), Moment(utc_now(), 0.05), [], span)
    (point,) = _collected(measures)["earwitness.event.duration"].data_points
    (exemplar,) = point.exemplars
    assert span.sampled is not None
    assert (exemplar.trace_id, exemplar.span_id) == (span.sampled.trace_id, span.sampled.span_id)
    assert exemplar.value == pytest.approx(7.0, abs=1.0)
    provider.shutdown()


def test_without_a_trace_there_is_no_exemplar() -> None:
    measures = Measures("audio.events", "group")
    _told(measures)
    points = [point for data in _collected(measures).values() for point in data.data_points]
    assert all(not point.exemplars for point in points)


def test_a_commit_that_failed_is_counted_as_such() -> None:
    measures = Measures("audio.events", "group")
    with pytest.raises(TimeoutError), measures.committing():
        raise TimeoutError
    (point,) = _collected(measures)["messaging.client.operation.duration"].data_points
    assert dict(point.attributes or {})["error.type"] == "TimeoutError"


def test_names_are_dotted_and_lower_case_and_each_is_used_once() -> None:
    names = [instrument.name for instrument in INSTRUMENTS]
    assert len(set(names)) == len(names)
    assert all(name.replace(".", "").replace("_", "").islower() for name in names)
    # the conventions: no metric's name is the namespace of another
    assert not [(one, other) for one in names for other in names if other.startswith(f"{one}.")]
    assert {instrument.unit for instrument in INSTRUMENTS if instrument.kind is Kind.HISTOGRAM} == {"s"}
