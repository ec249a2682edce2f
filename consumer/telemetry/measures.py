"""What a committed outcome adds to the figures: the tally, and histograms that cost a microsecond, not ten.

The SDK's own histograms take 6 to 9 µs a value, several of which make 6 % of an event that is served from memory. So
values are counted in plain buckets here, and put among the SDK's metrics when those are collected.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import SpanContext

from consumer.core.cost import API_ENGINES
from consumer.core.distribution import Distribution, Example
from consumer.core.outcomes import ELSEWHERE, DeadLettered, Moment, Settlement, Transcribed, Write
from consumer.core.refine import REFINER
from consumer.core.tally import Tally, attempts_of
from consumer.telemetry import catalogue
from consumer.telemetry.calls import API, CHAT, OWN
from consumer.telemetry.catalogue import Instrument
from consumer.telemetry.spans import SPEECH_TO_TEXT, EventSpan
from schemas.codes import Route

Labels = tuple[tuple[str, str], ...]
_HISTOGRAMS = [one for one in catalogue.INSTRUMENTS if one.kind is catalogue.Kind.HISTOGRAM]


class Measures:
    """One for the process; the lanes tell it of their outcomes."""

    def __init__(self, events_topic: str, group_id: str, *, show_texts: bool = False) -> None:
        self.tally = Tally(show_texts=show_texts)
        self._started_ns = time.time_ns()
        self._found: dict[str, dict[Labels, Distribution]] = {one.name: {} for one in _HISTOGRAMS}
        self._kafka: Labels = (
            (messaging.MESSAGING_SYSTEM, "kafka"),
            (messaging.MESSAGING_DESTINATION_NAME, events_topic),
            (messaging.MESSAGING_CONSUMER_GROUP_NAME, group_id),
        )
        self._process: Labels = (*self._kafka, (messaging.MESSAGING_OPERATION_NAME, "process"))
        self._commit: Labels = (
            *self._kafka,
            (messaging.MESSAGING_OPERATION_NAME, "commit"),
            (messaging.MESSAGING_OPERATION_TYPE, "settle"),
        )
        # what nearly every event adds to, at hand: finding it by its labels takes as long as adding
        self._processed_well = self._of(catalogue.PROCESS_DURATION, self._process)
        self._routes: dict[Route, Distribution] = {}
        self._stages: dict[str, Distribution] = {}

    def settled(self, outcome: Settlement, moment: Moment, writes: list[Write], span: EventSpan) -> None:
        """An outcome's transaction is committed."""
        sampled, notes = span.sampled, outcome.notes
        latency_seconds = max(0.0, (moment.now - notes.published_at).total_seconds())
        self.tally.add(outcome, moment, writes, latency_seconds)
        failed: Labels = ((ERROR_TYPE, outcome.reason.value),) if isinstance(outcome, DeadLettered) else ()
        _add(self._processed(failed), time.monotonic() - span.began, sampled)
        if isinstance(outcome, ELSEWHERE):
            return
        _add(self._taken(outcome.route if isinstance(outcome, Transcribed) else None, failed), latency_seconds, sampled)
        self._stage("commit", moment.commit_seconds, sampled)
        self._stage("fetch", notes.fetch_seconds, sampled)
        self._stage("decode", notes.decode_seconds, sampled)
        if isinstance(outcome, Transcribed):
            self._stage("queue", outcome.queue_seconds, sampled)
            self._stage("infer", outcome.infer_seconds, sampled)
            self._stage("shadow", outcome.shadow_seconds, sampled)
            self._stage("refine", outcome.refine_seconds, sampled)
            if not outcome.attempts and not notes.attempts:
                return
        self._attempts(outcome, sampled)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """A transaction under way."""
        began, failed = time.monotonic(), ""
        try:
            yield
        except BaseException as error:
            failed = type(error).__qualname__
            raise
        finally:
            labels = (*self._commit, (ERROR_TYPE, failed)) if failed else self._commit
            _add(self._of(catalogue.CLIENT_DURATION, labels), time.monotonic() - began, None)

    def added_to(self, data: MetricsData) -> MetricsData:
        """What the SDK collected, and the histograms of this process with it. Called in the exporters' threads."""
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics  # the one meter's: the OTLP encoder knows a scope once
        ours = [metric for metric in map(self._metric, _HISTOGRAMS) if metric.data.data_points]
        whole = ScopeMetrics(scope.scope, [*scope.metrics, *ours], scope.schema_url)
        return MetricsData([ResourceMetrics(resource.resource, [whole], resource.schema_url)])

    def _stage(self, stage: str, seconds: float | None, sampled: SpanContext | None) -> None:
        if seconds is None:
            return
        distribution = self._stages.get(stage)
        if distribution is None:
            distribution = self._stages[stage] = self._of(catalogue.STAGE_DURATION, (("earwitness.stage", stage),))
        _add(distribution, seconds, sampled)

    def _processed(self, failed: Labels) -> Distribution:
        return self._of(catalogue.PROCESS_DURATION, self._process + failed) if failed else self._processed_well

    def _taken(self, route: Route | None, failed: Labels) -> Distribution:
        if failed or route is None:
            return self._of(catalogue.EVENT_DURATION, (("earwitness.route", "none"), *failed))
        distribution = self._routes.get(route)
        if distribution is None:
            labels: Labels = (("earwitness.route", route.value),)
            distribution = self._routes[route] = self._of(catalogue.EVENT_DURATION, labels)
        return distribution

    def _attempts(self, outcome: Transcribed | DeadLettered, sampled: SpanContext | None) -> None:
        for attempt in attempts_of(outcome):
            labels: Labels = (
                (gen_ai.GEN_AI_OPERATION_NAME, CHAT if attempt.engine == REFINER else SPEECH_TO_TEXT),
                (gen_ai.GEN_AI_PROVIDER_NAME, API if attempt.engine in API_ENGINES else OWN),
                (gen_ai.GEN_AI_REQUEST_MODEL, attempt.model),
                *(((ERROR_TYPE, attempt.outcome),) if attempt.outcome != "ok" else ()),
            )
            _add(self._of(catalogue.ENGINE_DURATION, labels), attempt.seconds, sampled)

    def _of(self, instrument: Instrument, labels: Labels) -> Distribution:
        return self._found[instrument.name].setdefault(labels, Distribution())

    def _metric(self, instrument: Instrument) -> Metric:
        now_ns = time.time_ns()
        points = [
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=self._started_ns,
                time_unix_nano=now_ns,
                # the loop goes on counting meanwhile: what is said must agree with itself
                count=sum(counts := list(found.counts)),
                sum=found.sum,
                bucket_counts=counts,
                explicit_bounds=found.edges,
                min=found.low,
                max=found.high,
                exemplars=[
                    Exemplar({}, one.value, one.at_ns, one.span_id, one.trace_id)
                    for one in list(found.examples.values())
                ],
            )
            for labels, found in list(self._found[instrument.name].items())
            if found.high >= found.low  # it has a value
        ]
        return Metric(
            instrument.name, instrument.text, instrument.unit, Histogram(points, AggregationTemporality.CUMULATIVE)
        )


def _add(distribution: Distribution, value: float, sampled: SpanContext | None) -> None:
    distribution.add(value, sampled and Example(value, time.time_ns(), sampled.trace_id, sampled.span_id))
