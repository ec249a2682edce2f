"""The span of a send, and the trace context that travels with the record."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_context = TraceContextTextMapPropagator()


@contextmanager
def sending(tracer: Tracer, topic: str, key: str, event_id: str) -> Iterator[tuple[Span, list[tuple[str, bytes]]]]:
    """A producer span around a send, and the record headers that carry its context."""
    attributes = {
        messaging.MESSAGING_SYSTEM: messaging.MessagingSystemValues.KAFKA.value,
        messaging.MESSAGING_OPERATION_NAME: "send",
        messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.SEND.value,
        messaging.MESSAGING_DESTINATION_NAME: topic,
        messaging.MESSAGING_KAFKA_MESSAGE_KEY: key,
        messaging.MESSAGING_MESSAGE_ID: event_id,
    }
    with tracer.start_as_current_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
        carrier: dict[str, str] = {}
        _context.inject(carrier)
        try:
            yield span, [(name, value.encode()) for name, value in carrier.items()]
        except Exception as error:
            # what this package raises always has the one name; what it was raised from tells them apart
            span.set_attribute(ERROR_TYPE, type(error.__cause__ or error).__qualname__)
            raise


def sent_to(span: Span, partition: int, offset: int) -> None:
    """Note where the record was written."""
    span.set_attribute(messaging.MESSAGING_DESTINATION_PARTITION_ID, str(partition))
    span.set_attribute(messaging.MESSAGING_KAFKA_OFFSET, offset)
