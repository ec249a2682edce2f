"""Spans by OpenTelemetry's messaging conventions; nothing is recorded while no exporter is set.

One trace tells an event's story: the publisher's ``send``, here ``process`` as its child (and linked to it: a
record is processed alone, so the conventions allow the sender as parent), and below it a span for each stage:

    receive → fetch → decode → queue → infer → (shadow) → (refine) → commit

``wait`` stands for fetch to infer where another event has the same recording heard, and is linked to it: its trace
tells of those. ``hold`` is the time until an engine may be used; an event that was parked begins with ``parked``.

Whether an event is recorded is decided once, when its ``process`` begins. Of one that is not nothing is made: what its
sender said, or else the decision, travels on as text.
"""

import re
import time
from contextvars import ContextVar
from datetime import datetime
from importlib.metadata import version
from random import getrandbits
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, TraceIdRatioBased
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer.core.model import Record

_NANOSECONDS = 1_000_000_000
_propagator = TraceContextTextMapPropagator()
_NAME = "earwitness.consumer"
VERSION = version("earwitness")
SCHEMA_URL = Schemas.V1_40_0.value
"""The version of the conventions whose names are used."""
_NO_TRACER = trace.NoOpTracer()
_NOTHING = Context()
_PLAIN = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])")
"""A traceparent as nearly everybody writes it; the propagator understands the others."""
_UNRECORDED: ContextVar[str | None] = ContextVar("earwitness_unrecorded", default=None)
"""The traceparent of the event that the calling task works for, if it has one and is not recorded."""
_RATIO = re.compile(r"(?:ParentBased\{root:)?(?:TraceIdRatioBased\{([^}]+)\}|AlwaysOffSampler)")
_UNSAMPLED = TraceFlags.RANDOM_TRACE_ID
SPEECH_TO_TEXT = "speech_to_text"
"""The conventions for generative AI name no such operation yet; this is what their open proposal calls it."""


class EventSpan:
    """The ``process`` span of one record, open until its outcome is committed.

    Its stages follow each other without a gap: each begins where the one before it ended, the first when the event was
    published. So they add up to the event's whole time.
    """

    __slots__ = ("_carried", "_reached_ns", "_span", "_tracer", "began", "context", "is_recording")

    def __init__(
        self, carried: dict[str, str], tracer: trace.Tracer = _NO_TRACER, span: Span = trace.INVALID_SPAN
    ) -> None:
        """``carried``: the headers by which others continue the trace. Without a span nothing is recorded."""
        self._carried = carried
        self._tracer = tracer
        self._span = span
        self.is_recording = span is not trace.INVALID_SPAN
        self.began = time.monotonic()
        self._reached_ns = 0
        """Until when the stages are drawn."""
        self.context = trace.set_span_in_context(span, _NOTHING) if self.is_recording else _NOTHING

    @property
    def sampled(self) -> SpanContext | None:
        """What an exemplar may point at; None if nothing is recorded."""
        return self._span.get_span_context() if self.is_recording else None

    def headers(self) -> dict[str, str]:
        """W3C headers by which others continue this trace; none if nobody has begun one."""
        return self._carried

    def use(self) -> None:
        """The calling task works for this event: its log lines, calls and batches belong to the trace."""
        # for as long as the task lives
        if self.is_recording:
            attach(self.context)
        elif self._carried:
            _UNRECORDED.set(self._carried["traceparent"])

    def received(self, published_at: datetime, *, parked: bool = False) -> None:
        """Work begins; until now the event lay in Kafka, or in its lane's backlog. ``parked``: it had been put off."""
        if self.is_recording:
            # a publisher's clock may be ahead of this one
            self._reached_ns = min(time.time_ns(), round(published_at.timestamp() * _NANOSECONDS))
            self.stage("parked" if parked else "receive")

    def stage(
        self, name: str, seconds: float | None = None, *, failed: str | None = None, link: SpanContext | None = None
    ) -> None:
        """The next stage is over: it took so many seconds, or until now. ``failed``: the code of what ended it;
        ``link``: the event that did the work.
        """
        if not self.is_recording:
            return
        start_ns, end_ns = self._reached_ns, time.time_ns()
        if seconds is not None:
            end_ns = min(end_ns, start_ns + round(seconds * _NANOSECONDS))
        end_ns = self._reached_ns = max(start_ns, end_ns)
        links = [trace.Link(link)] if link is not None else None
        span = self._tracer.start_span(name, self.context, links=links, start_time=start_ns)
        if failed is not None:
            span.set_attribute(ERROR_TYPE, failed)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_ns)

    def identified(self, event_id: str, tenant: str) -> None:
        """The record was readable."""
        if not self.is_recording:
            return
        self._span.set_attributes(
            {
                messaging.MESSAGING_MESSAGE_ID: event_id,
                "earwitness.event_id": event_id,
                "earwitness.tenant": tenant,
            }
        )

    def note(self, **attributes: Any) -> None:
        """What became of the event, as attributes under ``earwitness.``."""
        if not self.is_recording:
            return
        self._span.set_attributes(
            {f"earwitness.{name}": value for name, value in attributes.items() if value is not None}
        )

    def failed(self, code: str, detail: str) -> None:
        """The outcome is a dead letter."""
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR, detail))

    def committed(self, left_at: datetime | None = None) -> None:
        """The outcome is: the last stage ends, and the event with it. ``left_at``: since when the event lies where its
        next record tells of it.
        """
        if not self.is_recording:
            return
        self.stage("commit", None if left_at is None else left_at.timestamp() - self._reached_ns / _NANOSECONDS)
        self.is_recording = False
        self._span.end(self._reached_ns if left_at is None else time.time_ns())

    def end(self) -> None:
        """The outcome is somebody else's."""
        self.is_recording = False  # a recognition that others wait for goes on
        self._span.end()


class Tracing:
    """Makes the spans of one consumer group; without an exporter they only pass the sender's context on."""

    def __init__(self, group_id: str, provider: trace.TracerProvider | None = None) -> None:
        """``provider``: None for the one that is set for the process, if any."""
        provider = provider or trace.get_tracer_provider()
        # the API's own stand-in: nobody has set one up
        is_none = isinstance(provider, trace.ProxyTracerProvider)
        self._tracer = None if is_none else provider.get_tracer(_NAME, VERSION, SCHEMA_URL)
        sampler: Sampler | None = getattr(provider, "sampler", None)
        self._follows_senders = sampler is not None and _follows_senders(sampler)
        self._bound = _bound(sampler) if sampler is not None else None
        ids = getattr(provider, "id_generator", None)
        self._ids = ids if isinstance(ids, Ids) else None
        self._group_id = group_id

    def process(self, record: Record) -> EventSpan:
        """The span of a record, child of whoever sent it."""
        carrier = {name: value.decode("latin-1") for name, value in record.headers if name.startswith("trace")}
        if not carrier:
            return self._begin(record)
        plain = _PLAIN.fullmatch(carrier.get("traceparent", "")) if len(carrier) == 1 else None
        if plain and (self._tracer is None or (self._follows_senders and plain[1] in "02468ace")):
            return EventSpan(carrier)
        parent = _propagator.extract(carrier, Context())
        sender = trace.get_current_span(parent).get_span_context()
        if not sender.is_valid:
            return self._begin(record)
        return EventSpan(_headers(sender)) if self._tracer is None else self._span(self._tracer, record, parent, sender)

    def _begin(self, record: Record) -> EventSpan:
        """A trace of its own, or only its ids if it is not recorded: asking a sampler takes as long as ten ids."""
        if self._tracer is None:
            return EventSpan({})
        if self._ids is not None and self._bound is not None:
            drawn = getrandbits(192)
            if drawn >> 64 & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
                ids = f"{drawn:048x}"
                return EventSpan({"traceparent": f"00-{ids[:32]}-{ids[32:]}-{_UNSAMPLED:02x}"})
            self._ids.next_is(drawn >> 64)
        return self._span(self._tracer, record, _NOTHING, trace.INVALID_SPAN_CONTEXT)

    def _span(self, tracer: trace.Tracer, record: Record, parent: Context, sender: SpanContext) -> EventSpan:
        attributes: dict[str, Any] = {
            messaging.MESSAGING_SYSTEM: "kafka",
            messaging.MESSAGING_OPERATION_NAME: "process",
            messaging.MESSAGING_OPERATION_TYPE: "process",
            messaging.MESSAGING_DESTINATION_NAME: record.topic,
            messaging.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
            messaging.MESSAGING_KAFKA_OFFSET: record.offset,
            messaging.MESSAGING_CONSUMER_GROUP_NAME: self._group_id,
        }
        if record.key:
            attributes[messaging.MESSAGING_KAFKA_MESSAGE_KEY] = record.key.decode("utf-8", "replace")
        links = [trace.Link(sender)] if sender.is_valid else None
        span = tracer.start_span(f"process {record.topic}", parent, SpanKind.CONSUMER, attributes, links)
        headers = _headers(span.get_span_context())
        return EventSpan(headers, tracer, span) if span.is_recording() else EventSpan(headers)


class Ids(RandomIdGenerator):
    """Random ids; the next trace's may be said before it begins."""

    def __init__(self) -> None:
        self._next = 0

    def next_is(self, trace_id: int) -> None:
        """The trace that begins next has this id."""
        self._next = trace_id

    def generate_trace_id(self) -> int:
        said, self._next = self._next, 0
        return said or super().generate_trace_id()


def current_ids() -> tuple[str, str] | None:
    """Trace and span id, in hex, of what the calling task works for; None outside of any trace."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    unrecorded = _UNRECORDED.get()
    return (unrecorded[3:35], unrecorded[36:52]) if unrecorded is not None else None


def is_left_out() -> bool:
    """Whether the calling task works for an event that is not recorded: then nothing below it is either."""
    return _UNRECORDED.get() is not None


def _follows_senders(sampler: Sampler) -> bool:
    """Whether what a sender did not record is never recorded here: so say the samplers that look at a parent."""
    return "remoteParentNotSampled:AlwaysOffSampler" in sampler.get_description()


def _bound(sampler: Sampler) -> int | None:
    """Where the sampler goes by the trace's id alone: from which number on one that begins here is left out."""
    said = _RATIO.match(sampler.get_description())
    return TraceIdRatioBased.get_bound_for_rate(float(said[1] or 0)) if said else None


def _headers(context: SpanContext) -> dict[str, str]:
    if not context.is_valid:
        return {}
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    headers = {"traceparent": f"00-{ids}-{context.trace_flags:02x}"}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers
