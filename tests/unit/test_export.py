"""What reaches a collector, or does not: in which temporality, with which exemplars, and how long the end waits."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, HistogramDataPoint, Metric
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from consumer.core.outcomes import Moment
from consumer.errors import ServiceError
from consumer.telemetry.export import exporting, is_grpc, is_wanted
from consumer.telemetry.measures import Measures
from consumer.telemetry.meter import measuring
from consumer.telemetry.spans import Tracing
from schemas.models import utc_now
from tests.support.otlp import collecting
from tests.unit.test_measures import RECORD, transcribed

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
PATIENCE_SECONDS = 20
"""The SDK's own, made short enough for a test that fails: it would wait this long."""


def _one(_: CallbackOptions) -> list[Observation]:
    return [Observation(1)]


@pytest.fixture(autouse=True)
def no_other_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # who is refused gives up before the other tests begin


@pytest.fixture
def dead_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(PATIENCE_SECONDS))
        yield
        _refuse_all(listener)


def _refuse_all(listener: socket.socket) -> None:
    """Until the threads that still send have given up: they would draw random numbers and log in other tests."""
    listener.settimeout(0.1)
    while any(thread.name == "flush telemetry" for thread in threading.enumerate()):
        with suppress(TimeoutError), listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


@pytest.mark.usefixtures("dead_collector")
def test_the_end_does_not_wait_for_a_collector_that_takes_no_spans(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("consumer.telemetry.export.FLUSH_SECONDS", 0.1)
    # once set it stays for the process, and the other tests want none
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    with exporting("test"):
        providers[0].get_tracer("test").start_span("lost").end()
    assert "telemetry_not_flushed in 0.1 s" in caplog.text


@pytest.mark.usefixtures("dead_collector")
def test_the_end_does_not_wait_for_a_collector_that_takes_no_metrics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("consumer.telemetry.meter.FLUSH_SECONDS", 0.1)
    with measuring("test", lambda data: data, registry=None) as meter:
        meter.create_observable_counter("lost", [_one])
    assert "telemetry_not_flushed in 0.1 s" in caplog.text


@pytest.mark.parametrize(
    ("named", "wanted"), [("", True), ("otlp", True), ("console, otlp", True), ("none", False), ("console", False)]
)
def test_which_exporters_are_wanted_is_a_list_and_nothing_stands_for_the_default(
    monkeypatch: pytest.MonkeyPatch, named: str, wanted: bool
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", named)
    assert is_wanted("traces") is wanted


def test_an_exporter_that_is_named_needs_no_endpoint_since_the_standard_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert (is_wanted("traces"), is_wanted("metrics")) == (True, False)


def test_what_is_not_known_is_said_once_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    for _ in range(2):
        assert not is_wanted("traces")
        assert not is_grpc("traces")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["exporter_unknown", "protocol_unknown"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_headers_that_cannot_be_read_are_complained_of_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key s3cr3t")
    monkeypatch.setattr(trace, "set_tracer_provider", list[TracerProvider]().append)
    with exporting("test"), measuring("test", lambda data: data, registry=None):
        pass
    assert "Header format invalid" in caplog.text
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "protocol"),
    [("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "grpc"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000", "http/protobuf")],
)
def test_a_variable_that_the_sdk_cannot_use_ends_it_with_a_word(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ServiceError, match=r"OTEL_\* variable cannot be used: \w+"), exporting("test"):
        pytest.fail("it began")


def _exported(monkeypatch: pytest.MonkeyPatch, temporality: str) -> list[list[Metric]]:
    """What three exports hold: of one event, of none more, of two more; the last comes with the end."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000000")
    measures, span = Measures("audio.events", "group"), Tracing("group", TracerProvider()).process(RECORD)
    providers, bodies = list[MeterProvider](), list[bytes]()

    class Kept(MeterProvider):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            providers.append(self)

    monkeypatch.setattr("consumer.telemetry.meter.MeterProvider", Kept)
    with collecting(bodies) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with measuring("test", measures.added_to, registry=None) as meter:
            meter.create_observable_counter("always", [_one])
            measures.settled(transcribed(), Moment(utc_now(), 0.05), [], span)
            for _ in range(2):
                providers[0].force_flush()
            for _ in range(2):
                measures.settled(transcribed(), Moment(utc_now(), 0.05), [], span)
    return [
        list(ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics)
        for body in bodies
    ]


def _fetch(found: list[Metric]) -> tuple[int, HistogramDataPoint] | None:
    """Temporality and point of the stage that took 0.2 s."""
    for metric in found:
        if metric.name == "earwitness.stage.duration":
            (point,) = (one for one in metric.histogram.data_points if one.attributes[0].value.string_value == "fetch")
            return metric.histogram.aggregation_temporality, point
    return None


def test_histograms_are_sums_since_the_start_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [_fetch(one) for one in _exported(monkeypatch, "cumulative")]
    assert [one and (one[0], one[1].count) for one in found] == [(CUMULATIVE, 1), (CUMULATIVE, 1), (CUMULATIVE, 3)]


def test_by_the_standard_variable_they_are_what_was_added_since_the_last_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, third = (_fetch(one) for one in _exported(monkeypatch, "delta"))
    assert first is not None
    assert third is not None
    assert second is None
    assert (first[0], first[1].count, third[0], third[1].count) == (DELTA, 1, DELTA, 2)
    assert sum(third[1].bucket_counts) == 2
    assert third[1].sum == pytest.approx(0.4)
    assert first[1].time_unix_nano <= third[1].start_time_unix_nano < third[1].time_unix_nano
    assert first[1].HasField("min")
    assert not third[1].HasField("min")


def test_an_exemplar_reaches_the_collector_with_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = _exported(monkeypatch, "cumulative")
    found = _fetch(last)
    assert found is not None
    (exemplar,) = found[1].exemplars
    assert exemplar.as_double == 0.2
    assert len(exemplar.trace_id) == 16
    assert any(exemplar.trace_id)
