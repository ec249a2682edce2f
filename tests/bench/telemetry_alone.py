"""What telemetry computes for one event that is answered from memory, by itself: no Kafka, no network, no other work.

``python -m tests.bench.telemetry_alone``: processor time of one thread in microseconds, the least of several rounds,
for events with a sender's trace and without one. Spans are encoded for OTLP as the exporter does it, and thrown away.
"""

import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from datetime import timedelta

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from consumer.core.event import Notes
from consumer.core.model import Record
from consumer.core.outcomes import Moment, Transcribed, Write
from consumer.settled import describe
from consumer.telemetry.measures import Measures
from consumer.telemetry.spans import Ids, Tracing
from schemas.codes import Route
from schemas.models import AudioEvent, EngineRef, Recognised, utc_now

SHARES = (0.01, 0.05, 1.0)
_BATCH = 512
_ROUNDS, _EVENTS = 7, 4000


class _Encoding(SpanProcessor):
    """Does what the batch processor and the exporter do with a span, but for the sending."""

    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)
        if len(self._ended) == _BATCH:
            encode_spans(self._ended).SerializeToString()
            self._ended.clear()


def tracing(share: float | None) -> Tracing:
    """None: nobody wants traces."""
    if share is None:
        return Tracing("group", trace.ProxyTracerProvider())
    provider = TracerProvider(ParentBasedTraceIdRatio(share), id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(_Encoding())
    return Tracing("group", provider)


class Carrier:
    """Takes events along what of the service's path belongs to telemetry."""

    def __init__(self, made: Tracing, measures: Measures | None) -> None:
        self._made, self._measures = made, measures
        self._recognised = Recognised(text="heard", engine=EngineRef(name="ctc", model="m"), audio_seconds=2.0)
        self._event = AudioEvent(event_id="e", uri="file:///a", published_at=utc_now() - timedelta(seconds=7))
        self._moment = Moment(utc_now(), 0.05)
        self._writes = [Write("audio.transcripts", b"e", b"{}"), Write("audio.metrics", b"e", b"{}")]

    def bare(self, record: Record) -> None:
        """What is there without telemetry, too."""
        self._outcome(Notes(record, self._event, "ab" * 32))

    def told(self, record: Record) -> None:
        """The same with telemetry."""
        span = self._made.process(record)
        notes = Notes(record, self._event, "ab" * 32, traceparent=span.headers())
        span.use()
        span.received(notes.published_at)
        outcome = self._outcome(notes)
        describe(span, outcome)
        if self._measures is not None:
            self._measures.settled(outcome, self._moment, self._writes, span)
        span.stage("commit")
        span.end()

    def _outcome(self, notes: Notes) -> Transcribed:
        return Transcribed(notes, self._recognised, Route.CACHE, cached=True)


def microseconds(share: float | None, *, metrics: bool, with_sender: bool) -> float:
    """For one event. The senders' own traces are sampled for as many events as are asked for."""
    carrier = Carrier(tracing(share), Measures("audio.events", "group") if metrics else None)
    every = round(1 / share) if share else _EVENTS + 1
    records = [_record(number, with_sender, (number + 1) % every == 0) for number in range(_EVENTS)]
    told, bare = (min(_cpu_seconds(carry, records) for _ in range(_ROUNDS)) for carry in (carrier.told, carrier.bare))
    return (told - bare) / _EVENTS * 1e6


def _record(number: int, with_sender: bool, is_sampled: bool) -> Record:
    header = f"00-0af7651916cd43dd8448eb21{number + 1:08x}-b7ad6b7169203331-{is_sampled:02x}"
    return Record("audio.events", 0, number, 0, b"key", b"{}", (("traceparent", header.encode()),) * with_sender)


def _cpu_seconds(carry: Callable[[Record], None], records: Sequence[Record]) -> float:
    def carry_all() -> None:
        for record in records:
            carry(record)

    began = time.thread_time()
    copy_context().run(carry_all)  # as each task has its own
    return time.thread_time() - began


def figures(shares: Sequence[float] = SHARES) -> dict[str, dict[str, float]]:
    """Microseconds by what is on, and by whether the events come with a trace."""
    kinds: list[tuple[str, float | None, bool]] = [
        ("off", None, False),
        ("metrics", None, True),
        *((f"metrics and {share:.0%} traced", share, True) for share in shares),
    ]
    return {
        name: {
            sender: round(microseconds(share, metrics=metrics, with_sender=with_sender), 1)
            for sender, with_sender in (("alone", False), ("with a sender's trace", True))
        }
        for name, share, metrics in kinds
    }


def main() -> None:
    for name, by_sender in figures().items():
        print(f"{name:28}" + ", ".join(f"{value:6.1f} µs {sender}" for sender, value in by_sender.items()))


if __name__ == "__main__":
    main()
