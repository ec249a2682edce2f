"""Spans by OpenTelemetry's messaging conventions; nothing is recorded while no exporter is set.

One trace tells an event's story: the publisher's ``send``, here ``process`` as its child (and linked to it: a
record is processed alone, so the conventions allow the sender as parent), and below it a span for each stage.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.core.model import Record

_NANOSECONDS = 1_000_000_000
_propagator = TraceContextTextMapPropagator()


class EventSpan:
    """The ``process`` span of one record, open until its outcome is committed."""

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())

    def headers(self) -> dict[str, str]:
        """W3C headers by which others continue this trace; none if nothing is traced."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, self._context)
        return carrier

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage as it happens."""
        with self._tracer.start_as_current_span(name, self._context):
            yield

    def stage_before(self, name: str, seconds: float | None, ended_seconds_ago: float = 0.0) -> None:
        """A stage that somebody else has timed."""
        if seconds is None:
            return
        end = time.time_ns() - round(ended_seconds_ago * _NANOSECONDS)
        span = self._tracer.start_span(name, self._context, start_time=end - round(seconds * _NANOSECONDS))
        span.end(end)

    def note(self, **attributes: Any) -> None:
        """What became of the event, as attributes under ``earwitness.``."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"earwitness.{name}", value)

    def failed(self, code: str, detail: str) -> None:
        """The outcome is a dead letter."""
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR, detail))

    def end(self) -> None:
        """The outcome is committed, or somebody else's."""
        self._span.end()


class Tracing:
    """Makes the spans of one consumer group."""

    def __init__(self, group_id: str) -> None:
        self._tracer = trace.get_tracer("earwitness.consumer")
        self._group_id = group_id

    def process(self, record: Record) -> EventSpan:
        """The span of a record, child of whoever sent it."""
        carrier = {name: value.decode("latin-1") for name, value in record.headers if name.startswith("trace")}
        parent = _propagator.extract(carrier, Context()) if carrier else Context()
        sender = trace.get_current_span(parent).get_span_context()
        span = self._tracer.start_span(
            f"process {record.topic}",
            parent,
            SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.consumer.group.name": self._group_id,
                **({"messaging.kafka.message.key": record.key.decode("utf-8", "replace")} if record.key else {}),
            },
            links=[Link(sender)] if sender.is_valid else None,
        )
        return EventSpan(self._tracer, span)
