"""Histograms by what was added since the last collection, for receivers that want them so (``delta`` temporality)."""

from collections.abc import Iterator
from dataclasses import replace
from operator import sub

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.util.types import AnyValue


class Deltas:
    """One for each reader: what it was given last is what it is not given again."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, tuple[tuple[str, AnyValue], ...]], HistogramDataPoint] = {}

    def of(self, data: MetricsData) -> MetricsData:
        """The same with its cumulative histograms as deltas; those that nothing was added to are left out."""
        resources = [
            replace(resource, scope_metrics=[self._scope(scope) for scope in resource.scope_metrics])
            for resource in data.resource_metrics
        ]
        return MetricsData(resources)

    def _scope(self, scope: ScopeMetrics) -> ScopeMetrics:
        return replace(scope, metrics=[new for metric in scope.metrics if (new := self._metric(metric)) is not None])

    def _metric(self, metric: Metric) -> Metric | None:
        found = metric.data
        if not isinstance(found, Histogram) or found.aggregation_temporality is not AggregationTemporality.CUMULATIVE:
            return metric
        points = list(self._points(metric.name, found))
        return replace(metric, data=Histogram(points, AggregationTemporality.DELTA)) if points else None

    def _points(self, name: str, found: Histogram) -> Iterator[HistogramDataPoint]:
        for point in found.data_points:
            key = (name, tuple((point.attributes or {}).items()))
            last, self._last[key] = self._last.get(key), point
            if last is None:
                yield point
            elif point.count > last.count:
                yield replace(
                    point,
                    start_time_unix_nano=last.time_unix_nano,
                    count=point.count - last.count,
                    sum=point.sum - last.sum,
                    bucket_counts=list(map(sub, point.bucket_counts, last.bucket_counts)),
                    # of the time since then nobody knows them; OTLP allows none
                    min=None,  # type: ignore[arg-type]
                    max=None,  # type: ignore[arg-type]
                    exemplars=[one for one in point.exemplars if one.time_unix_nano > last.time_unix_nano],
                )
