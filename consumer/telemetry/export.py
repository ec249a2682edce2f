"""Where spans go, and what is common to metrics: by the standard ``OTEL_*`` variables, and nowhere when they are unset.

Resource, sampling, endpoints, headers, intervals, temporality and limits are the SDK's own reading of those variables.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from consumer.errors import ServiceError
from consumer.telemetry.spans import VERSION, Ids

FLUSH_SECONDS = 1.5
"""How long the end waits for a collector to take the last spans, and as long again for the last metrics."""
_INSTANCE = str(uuid.uuid4())

log = logging.getLogger(__name__)


@contextmanager
def exporting(service_name: str) -> Iterator[None]:
    """Export spans for the length of the block if the environment asks for it. Raises ServiceError for what it says."""
    if not is_wanted("traces"):
        yield
        return
    with reading_variables():
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
        "service.version": VERSION,
        "service.instance.id": _INSTANCE,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


@contextmanager
def reading_variables() -> Iterator[None]:
    """Raises ServiceError where the SDK raises whatever it does over a variable that it cannot use."""
    headers_log = logging.getLogger("opentelemetry.util.re")
    headers_log.addFilter(_without_values)
    try:
        yield
    except Exception as error:
        raise ServiceError(f"an OTEL_* variable cannot be used: {error}; correct it, or unset it") from error
    finally:
        headers_log.removeFilter(_without_values)


def _without_values(record: logging.LogRecord) -> bool:
    """Of headers that it cannot read the SDK would say what they are, and they may be keys."""
    record.args = ("(not shown)",) if record.args else ()
    return True


def is_wanted(signal: str) -> bool:
    """Whether the environment asks for OTLP of ``traces`` or ``metrics``: names an endpoint, or the exporter itself."""
    name = signal.upper()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    # a list; and what is set to nothing counts as not set
    exporters = list(filter(None, map(str.strip, os.environ.get(f"OTEL_{name}_EXPORTER", "").split(","))))
    for unknown in sorted({*exporters} - {"otlp", "none"}):
        _warn_once(f"exporter_unknown OTEL_{name}_EXPORTER says {unknown}; there are otlp and none, so it is left out")
    if exporters:
        return "otlp" in exporters
    return any(map(os.environ.get, ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")))


def is_grpc(signal: str) -> bool:
    """Whether to speak gRPC; the conventions' default is HTTP."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, names)), "http/protobuf")
    if protocol not in ("grpc", "http/protobuf"):
        _warn_once(f"protocol_unknown {protocol}: there are grpc and http/protobuf; {signal} go by the latter")
    return protocol == "grpc"


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


def _span_exporter() -> SpanExporter:
    if is_grpc("traces"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
