"""Spans by OpenTelemetry's messaging conventions; nothing is recorded while no exporter is set.

One trace tells an event's story: the publisher's ``send``, here ``process`` as its child (and linked to it: a
record is processed alone, so the conventions allow the sender as parent), and below it a span for each stage:

    receive → fetch → decode → queue → infer → (shadow) → (refine) → commit

``wait`` stands for fetch to infer where another event has the same recording heard; its trace tells of those.
"""

import time
from datetime import datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.core.model import Record

_NANOSECONDS = 1_000_000_000
_propagator = TraceContextTextMapPropagator()
_NAME = "earwitness.consumer"
_NO_TRACER = trace.NoOpTracer()
_NOTHING = Context()
SPEECH_TO_TEXT = "speech_to_text"
"""The conventions for generative AI name no such operation yet; this is what their open proposal calls it."""


class EventSpan:
    """The ``process`` span of one record, open until its outcome is committed.

    Its stages follow each other without a gap: each begins where the one before it ended, the first when the event was
    published. So they add up to the event's whole time.
    """

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._is_recording = span.is_recording()
        self._is_traced = span is not trace.INVALID_SPAN
        self.began = time.monotonic()
        self._reached_ns = 0
        """Until when the stages are drawn."""
        self.context = trace.set_span_in_context(span, _NOTHING) if self._is_traced else _NOTHING

    @property
    def sampled(self) -> SpanContext | None:
        """What an exemplar may point at; None if nothing is recorded."""
        return self._span.get_span_context() if self._is_recording else None

    def headers(self) -> dict[str, str]:
        """W3C headers by which others continue this trace; none if nothing is traced."""
        carrier: dict[str, str] = {}
        if not self._is_traced:
            return carrier
        _propagator.inject(carrier, self.context)
        return carrier

    def use(self) -> None:
        """The calling task works for this event: its log lines, calls and batches belong to the trace."""
        if self._is_traced:
            attach(self.context)  # for as long as the task lives

    def received(self, published_at: datetime) -> None:
        """Work begins; until now the event lay in Kafka, or in its lane's backlog."""
        if self._is_recording:
            # a publisher's clock may be ahead of this one
            self._reached_ns = min(time.time_ns(), round(published_at.timestamp() * _NANOSECONDS))
            self.stage("receive")

    def stage(self, name: str, seconds: float | None = None, *, failed: str | None = None) -> None:
        """The next stage is over: it took so many seconds, or until now. ``failed``: the code of what ended it."""
        if not self._is_recording:
            return
        start_ns, end_ns = self._reached_ns, time.time_ns()
        if seconds is not None:
            end_ns = min(end_ns, start_ns + round(seconds * _NANOSECONDS))
        end_ns = self._reached_ns = max(start_ns, end_ns)
        span = self._tracer.start_span(name, self.context, start_time=start_ns)
        if failed is not None:
            span.set_attribute(ERROR_TYPE, failed)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_ns)

    def identified(self, event_id: str, tenant: str) -> None:
        """The record was readable."""
        if not self._is_recording:
            return
        self._span.set_attribute(messaging.MESSAGING_MESSAGE_ID, event_id)
        self.note(event_id=event_id, tenant=tenant)

    def note(self, **attributes: Any) -> None:
        """What became of the event, as attributes under ``earwitness.``."""
        if not self._is_recording:
            return
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"earwitness.{name}", value)

    def failed(self, code: str, detail: str) -> None:
        """The outcome is a dead letter."""
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR, detail))

    def end(self) -> None:
        """The outcome is committed, or somebody else's."""
        self._is_recording = False  # a recognition that others wait for goes on
        self._span.end()


class Tracing:
    """Makes the spans of one consumer group; without an exporter they only pass the sender's context on."""

    def __init__(self, group_id: str) -> None:
        provider = trace.get_tracer_provider()
        # the API's own stand-in: nobody has set one up
        self._tracer = None if isinstance(provider, trace.ProxyTracerProvider) else provider.get_tracer(_NAME)
        self._group_id = group_id

    def process(self, record: Record) -> EventSpan:
        """The span of a record, child of whoever sent it."""
        carrier = {name: value.decode("latin-1") for name, value in record.headers if name.startswith("trace")}
        parent = _propagator.extract(carrier, Context()) if carrier else _NOTHING
        if self._tracer is None:
            return EventSpan(_NO_TRACER, trace.get_current_span(parent) if carrier else trace.INVALID_SPAN)
        sender = trace.get_current_span(parent).get_span_context()
        span = self._tracer.start_span(
            f"process {record.topic}",
            parent,
            SpanKind.CONSUMER,
            attributes={
                messaging.MESSAGING_SYSTEM: "kafka",
                messaging.MESSAGING_OPERATION_NAME: "process",
                messaging.MESSAGING_OPERATION_TYPE: "process",
                messaging.MESSAGING_DESTINATION_NAME: record.topic,
                messaging.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
                messaging.MESSAGING_KAFKA_OFFSET: record.offset,
                messaging.MESSAGING_CONSUMER_GROUP_NAME: self._group_id,
                **_key(record),
            },
            links=[Link(sender)] if sender.is_valid else None,
        )
        return EventSpan(self._tracer, span)


def _key(record: Record) -> dict[str, str]:
    return {messaging.MESSAGING_KAFKA_MESSAGE_KEY: record.key.decode("utf-8", "replace")} if record.key else {}
