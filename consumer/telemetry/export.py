"""Where spans go, and what is common to metrics: by the standard ``OTEL_*`` variables, and nowhere when they are unset.

Resource, sampling, endpoints, headers, intervals, temporality and limits are the SDK's own reading of those variables.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from consumer.telemetry.spans import Ids

FLUSH_SECONDS = 1.5
"""How long the end waits for a collector to take the last spans, and as long again for the last metrics."""
_INSTANCE = str(uuid.uuid4())

log = logging.getLogger(__name__)


@contextmanager
def exporting(service_name: str) -> Iterator[None]:
    """Export spans for the length of the block if the environment names an OTLP endpoint."""
    if not is_wanted("traces"):
        yield
        return
    provider = TracerProvider(resource=resource(service_name), shutdown_on_exit=False, id_generator=Ids())
    provider.add_span_processor(BatchSpanProcessor(_span_exporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        within(FLUSH_SECONDS, provider.shutdown)


def within(seconds: float, flush: Callable[[], None]) -> None:
    """Flush for so long at most: a collector that takes a connection and never answers holds the SDK up for 30 s."""
    thread = threading.Thread(target=flush, name="flush telemetry", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("telemetry_not_flushed in %g s: what was last recorded is lost", seconds)


def resource(service_name: str) -> Resource:
    """Who speaks; the environment's word on that comes first."""
    ours = {
        "service.name": service_name,
        "service.version": version("earwitness"),
        "service.instance.id": _INSTANCE,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def is_wanted(signal: str) -> bool:
    """Whether the environment names an OTLP endpoint for ``traces`` or ``metrics``."""
    name = signal.upper()
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    # a list; and what is set to nothing counts as not set
    if "otlp" not in map(str.strip, (os.environ.get(f"OTEL_{name}_EXPORTER") or "otlp").split(",")):
        return False
    return any(map(os.environ.get, ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")))


def is_grpc(signal: str) -> bool:
    """Whether to speak gRPC; the conventions' default is HTTP."""
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    return (protocol or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")) == "grpc"


def _span_exporter() -> SpanExporter:
    if is_grpc("traces"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
