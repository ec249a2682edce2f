"""Spans of what engines do: a call of an API, a batch of the model's own. Never a secret or a text."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import httpx2
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes import server_attributes as server
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from consumer.telemetry.spans import SCHEMA_URL, SPEECH_TO_TEXT, VERSION, is_left_out

API = "openai"
"""The provider that calls of an API name, whoever's server speaks like it."""
OWN = "earwitness"
"""The provider of models that run here."""
CHAT = gen_ai.GenAiOperationNameValues.CHAT.value
_USAGE = (
    # as transcriptions report them, and as chats do
    (gen_ai.GEN_AI_USAGE_INPUT_TOKENS, ("input_tokens", "prompt_tokens")),
    (gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS, ("output_tokens", "completion_tokens")),
)
_ANSWER = ((gen_ai.GEN_AI_RESPONSE_MODEL, "model"), (gen_ai.GEN_AI_RESPONSE_ID, "id"))
_PORTS = {"http": 80, "https": 443}
_CHARACTERS = 256
"""Of what a server says of itself."""
_UNUSABLE = "unusable_answer"
_tracer = trace.get_tracer("earwitness.engines", VERSION, schema_url=SCHEMA_URL)


class Call:
    """A request under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, answer: object, *, usable: bool = True) -> None:
        """An answer came, with the tokens that it reports if it does. ``usable``: it is what was asked for."""
        self._span.set_attribute(http.HTTP_RESPONSE_STATUS_CODE, 200)
        for attribute, name in _ANSWER:
            if isinstance(said := getattr(answer, name, None), str):
                self._span.set_attribute(attribute, said[:_CHARACTERS])
        usage = getattr(answer, "usage", None)
        for attribute, names in _USAGE:
            for name in names:
                if isinstance(tokens := getattr(usage, name, None), int):
                    self._span.set_attribute(attribute, tokens)
        if not usable:
            self._span.set_attribute(ERROR_TYPE, _UNUSABLE)
            self._span.set_status(Status(StatusCode.ERROR))


@contextmanager
def calling(
    model: str, server_url: httpx2.URL, *, operation: str = SPEECH_TO_TEXT, audio_seconds: float | None = None
) -> Iterator[Call]:
    """The span of one request to an API, below the span of the event that it is made for."""
    if is_left_out():
        yield Call(trace.INVALID_SPAN)
        return
    attributes: dict[str, Any] = {
        gen_ai.GEN_AI_OPERATION_NAME: operation,
        gen_ai.GEN_AI_PROVIDER_NAME: API,
        gen_ai.GEN_AI_REQUEST_MODEL: model,
        http.HTTP_REQUEST_METHOD: "POST",
        server.SERVER_ADDRESS: server_url.host,
        server.SERVER_PORT: server_url.port or _PORTS.get(server_url.scheme, 0),
    }
    if audio_seconds is not None:
        attributes["earwitness.audio_seconds"] = audio_seconds
    # an exception's message may hold whatever the server said, so it is not recorded
    with _tracer.start_as_current_span(
        f"{operation} {model}",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield Call(span)
        except BaseException as error:
            status = getattr(error, "status_code", None)
            if isinstance(status, int):
                span.set_attribute(http.HTTP_RESPONSE_STATUS_CODE, status)
            span.set_attribute(ERROR_TYPE, str(status) if isinstance(status, int) else type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def waits_for_api(why: str, seconds: float) -> None:
    """The calling task's event begins to queue for an API that lets nobody through for so long at least."""
    trace.get_current_span().add_event("api_shut", {"earwitness.why": why, "earwitness.seconds": round(seconds, 3)})


def try_failed(stage: str, reason: str) -> None:
    """A try within a stage of the calling task's event failed, and there may be another: the stage itself goes on."""
    trace.get_current_span().add_event("try_failed", {"earwitness.stage": stage, ERROR_TYPE: reason})


def draw_batch(
    model: str, seconds: float, members: Sequence[Context], attributes: dict[str, Any], *, failed: str | None = None
) -> None:
    """The span of a batch that is over now, linked to the events whose chunks it held. ``failed``: by which error.

    It lies in the trace of the first of them that is recorded: so a batch is kept whenever one of its events is.
    """
    contexts = _contexts(members)
    if not contexts:
        return
    end_ns = time.time_ns()
    span = _tracer.start_span(
        f"{SPEECH_TO_TEXT} {model}",
        trace.set_span_in_context(trace.NonRecordingSpan(contexts[0])),
        SpanKind.INTERNAL,
        attributes={
            gen_ai.GEN_AI_OPERATION_NAME: SPEECH_TO_TEXT,
            gen_ai.GEN_AI_PROVIDER_NAME: OWN,
            gen_ai.GEN_AI_REQUEST_MODEL: model,
            **attributes,
        },
        links=[Link(context) for context in contexts],
        start_time=end_ns - round(seconds * 1e9),
    )
    if failed is not None:
        span.set_attribute(ERROR_TYPE, failed)
        span.set_status(Status(StatusCode.ERROR))
    span.end(end_ns)


def _contexts(members: Sequence[Context]) -> list[SpanContext]:
    """The members' events that are recorded, each once, in order."""
    found: dict[int, SpanContext] = {}
    for member in members:
        span = member.run(trace.get_current_span)
        if span.is_recording():
            found.setdefault(span.get_span_context().span_id, span.get_span_context())
    return list(found.values())
