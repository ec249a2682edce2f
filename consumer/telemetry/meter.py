"""Where metrics go: to an OTLP endpoint by the standard ``OTEL_*`` variables, and to ``/metrics``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Histogram as HistogramKind
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from prometheus_client import CollectorRegistry

from consumer.telemetry.deltas import Deltas
from consumer.telemetry.export import FLUSH_SECONDS, is_grpc, is_wanted, reading_variables, resource, within
from consumer.telemetry.spans import SCHEMA_URL, VERSION

Adding = Callable[[MetricsData], MetricsData]
"""Puts what is counted outside the SDK among what it collected; called in threads."""


@contextmanager
def measuring(service_name: str, adding: Adding, *, registry: CollectorRegistry | None) -> Iterator[Meter]:
    """A meter whose instruments go to an OTLP endpoint if the environment asks for it, and into ``registry``."""
    readers: list[MetricReader] = []
    with reading_variables():
        if is_wanted("metrics"):
            readers.append(_OtlpReader(_metric_exporter(), adding))
        if registry is not None:
            readers.append(_PrometheusReader(registry, adding))
        provider = MeterProvider(readers, resource(service_name), shutdown_on_exit=False)
    try:
        yield provider.get_meter("earwitness", VERSION, SCHEMA_URL)
    finally:
        within(FLUSH_SECONDS, provider.shutdown)


class _OtlpReader(PeriodicExportingMetricReader):
    def __init__(self, exporter: MetricExporter, adding: Adding) -> None:
        self._adding = adding
        # what the SDK itself collects comes so already
        wanted = (exporter._preferred_temporality or {}).get(HistogramKind)  # noqa: SLF001 (the SDK's readers ask so)
        self._deltas = Deltas() if wanted is AggregationTemporality.DELTA else None
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
        whole = self._adding(metrics_data)
        super()._receive_metrics(self._deltas.of(whole) if self._deltas else whole, timeout_millis, **more)


class _PrometheusReader(PrometheusMetricReader):
    def __init__(self, registry: CollectorRegistry, adding: Adding) -> None:
        self._adding = adding
        super().__init__(scope_info_enabled=False, registry=registry)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
        super()._receive_metrics(self._adding(metrics_data), timeout_millis, **more)


def _metric_exporter() -> MetricExporter:
    if is_grpc("metrics"):
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter()
