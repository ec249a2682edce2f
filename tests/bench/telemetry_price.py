"""What telemetry costs on the cheapest path there is: events that are answered from the dedup topic.

``python -m tests.bench.telemetry_price [--minutes 5] [--sampled 0.01] [--out FILE.json]``: a real broker, and the real
service in this process, whose telemetry is switched every two seconds: off, metrics, metrics and traces of a sampled
share of the events, in rounds of random order. One run beside another cannot tell this: on shared cores they differ by
a tenth with nothing changed. Told is the ratio of the sums of all rounds, and its 95 % interval, by drawing rounds.

Three prices: what the telemetry's own calls take of the event loop's time, clocked in place, which sways least; and,
from the rounds, of processor time for an event and of events a second, which hold all that the calls cause elsewhere
and sway with the machine. What is done once in a while (a scrape) is measured beside it, and what "off" costs against
no telemetry at all is counted alone: ``telemetry_alone``.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch
from urllib.request import urlopen

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import ProxyTracerProvider

from compose.kafka_probe import free_ports
from compose.local_kafka import LocalKafka
from consumer import service
from consumer.cli.serve import run
from consumer.core.model import Record
from consumer.core.outcomes import Moment, Settlement, Write
from consumer.kafka.topics import create
from consumer.settings import Settings
from consumer.telemetry.measures import Measures
from consumer.telemetry.spans import EventSpan, Ids, Tracing
from tests.bench.telemetry_alone import figures
from tests.bench.throughput import RECORDINGS, make_recordings, publish
from tests.support.otlp import collecting

P = ParamSpec("P")
T = TypeVar("T")
OFF, METRICS = "off", "metrics"
_TURN_SECONDS, _UNCOUNTED_SECONDS = 2.0, 0.2
"""Events that began in the turn before are settled by the end of the second: they count for nobody. Since events settle
by the transaction, hundreds at once, short turns would catch one more or less.
"""
_LEAST_EVENTS = 500
"""What a turn must have settled to count; fewer where Kafka had nothing ready."""
_CALLS = ("use", "received", "stage", "headers", "identified", "note", "committed", "end")
"""Of an event's span, which the service makes whether anything is recorded or not."""
_DRAWS = 1000
_SCRAPES, _SCRAPE_EVERY_SECONDS = 20, 15.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What was done with one kind of telemetry in the counted part of two seconds."""

    events: int
    seconds: float
    cpu_seconds: float
    """Of the event loop's thread."""


@dataclass(slots=True)
class Switch:
    """Stands between the service and its telemetry, and counts what is settled."""

    tracings: dict[str, Tracing]
    """By kind of turn."""
    kind: str = OFF
    settled: int = 0
    rounds: list[dict[str, Turn]] = field(default_factory=list)
    clocked: Counter[str] = field(default_factory=Counter)
    """Nanoseconds inside of telemetry, by kind of turn, and"""
    carried: Counter[str] = field(default_factory=Counter)
    """events settled meanwhile."""
    clock_ns: int = 0
    """What the clock itself takes."""
    _is_inside: bool = False

    def calibrate(self) -> None:
        """Find ``clock_ns`` by what a call that does nothing takes."""
        nothing, times = self.clock(lambda: None), 20_000
        for _ in range(times):
            nothing()
        self.clock_ns = self.clocked.pop(self.kind) // times

    def clock(self, call: Callable[P, T]) -> Callable[P, T]:
        """The call, and what it takes, unless another that is clocked makes it."""

        def clocked(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._is_inside:
                return call(*args, **kwargs)
            self._is_inside, began = True, time.thread_time_ns()
            try:
                return call(*args, **kwargs)
            finally:
                self.clocked[self.kind] += time.thread_time_ns() - began - self.clock_ns
                self._is_inside = False

        return clocked

    def process(self, record: Record) -> EventSpan:
        """In the place of ``Tracing.process``."""
        return self.tracings[self.kind].process(record)

    def telling(self, tell: Callable[..., None]) -> Callable[..., None]:
        """In the place of ``Measures.settled``."""

        def told(measures: Measures, outcome: Settlement, moment: Moment, writes: list[Write], span: EventSpan) -> None:
            self.settled += 1
            self.carried[self.kind] += 1
            if self.kind != OFF:
                tell(measures, outcome, moment, writes, span)

        return told

    def committing(
        self, really: Callable[[Measures], AbstractContextManager[None]]
    ) -> Callable[[Measures], AbstractContextManager[None]]:
        """In the place of ``Measures.committing``."""
        return lambda measures: really(measures) if self.kind != OFF else nullcontext()

    async def turn(self, kind: str) -> Turn | None:
        """One; None if too little came to say anything."""
        self.kind = kind
        await asyncio.sleep(_UNCOUNTED_SECONDS)
        settled, used, began = self.settled, time.thread_time(), time.monotonic()
        await asyncio.sleep(_TURN_SECONDS - _UNCOUNTED_SECONDS)
        events, used, seconds = self.settled - settled, time.thread_time() - used, time.monotonic() - began
        return Turn(events, seconds, used) if events >= _LEAST_EVENTS else None

    async def play(self, events: int, serving: asyncio.Task[None]) -> None:
        """Round after round until so many events are settled, or nobody serves any more."""
        order, draw = list(self.tracings), random.Random(1)
        while self.settled < RECORDINGS + 1000 and not serving.done():  # all are heard once: that is another path
            await self.turn(OFF)
        while self.settled < events and not serving.done():
            draw.shuffle(order)
            turns = {kind: await self.turn(kind) for kind in order}
            found = {kind: turn for kind, turn in turns.items() if turn is not None}
            if len(found) == len(order):
                self.rounds.append(found)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one kind in many rounds."""

    events_per_second: float
    cpu_microseconds: float
    """For each event."""

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> "Sums":
        """What they come to together."""
        events = sum(turn.events for turn in turns)
        used, seconds = sum(turn.cpu_seconds for turn in turns), sum(turn.seconds for turn in turns)
        return cls(events / seconds, used / events * 1e6)


def prices(rounds: Sequence[dict[str, Turn]], kind: str) -> dict[str, Any]:
    """Of a kind against none: more processor time for an event, and fewer events a second, as shares."""
    draw = random.Random(1)
    drawn = [price(rounds, kind), *(price(draw.choices(rounds, k=len(rounds)), kind) for _ in range(_DRAWS))]
    return {name: _told([one[name] for one in drawn]) for name in drawn[0]}


def price(rounds: Sequence[dict[str, Turn]], kind: str) -> dict[str, float]:
    """The same of exactly these rounds."""
    on, off = (Sums.of([one[which] for one in rounds]) for which in (kind, OFF))
    return {
        "cpu": on.cpu_microseconds / off.cpu_microseconds - 1,
        "throughput": 1 - on.events_per_second / off.events_per_second,
    }


def _told(values: Sequence[float]) -> dict[str, float]:
    found, *drawn = values
    edges = statistics.quantiles(drawn, n=40)  # 2.5 % steps
    return {name: round(value, 4) for name, value in (("found", found), ("from", edges[0]), ("to", edges[-1]))}


def scrape_milliseconds(port: int) -> float:
    """Processor time of this whole process for one look at ``/metrics``, the look itself included."""
    used = time.process_time()
    for _ in range(_SCRAPES):
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            answer.read()
    return (time.process_time() - used) / _SCRAPES * 1e3


async def measure(kafka: LocalKafka, folder: Path, endpoint: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Serve all events, and compare."""
    (port,) = free_ports(1)
    events = round(asked.minutes * 60 * asked.rate)
    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        partitions=asked.partitions,
        engine="simulated",
        fetch_allow=[f"file://{folder}/"],
        state_dir=folder / "state",
        topic_prefix="telemetry",
        http_port=port,
    )
    await create(settings)
    await asyncio.to_thread(publish, settings, make_recordings(folder), events)
    provider = TracerProvider(ParentBasedTraceIdRatio(asked.sampled), id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    nobody = Tracing(settings.group_id, ProxyTracerProvider())
    traced = f"metrics and {asked.sampled:.0%} traced"
    switch = Switch({OFF: nobody, METRICS: nobody, traced: Tracing(settings.group_id, provider)})
    switch.calibrate()
    with ExitStack() as patches:
        replaced = [
            (service, "Tracing", lambda _group_id: switch),
            (Switch, "process", switch.clock(Switch.process)),
            (Measures, "settled", switch.clock(switch.telling(Measures.settled))),
            (Measures, "committing", switch.committing(Measures.committing)),
            *((EventSpan, name, switch.clock(getattr(EventSpan, name))) for name in _CALLS),
        ]
        for where, name, instead in replaced:
            patches.enter_context(patch.object(where, name, instead))
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(service.serve(settings))
            # the last second is the tail: lanes end one after the other
            await switch.play(events - round(asked.rate), serving)
            if serving.done() or not switch.rounds:
                raise SystemExit("stopped, or too slow for one whole round: give a smaller --rate and more --minutes")
            scrape_ms = await asyncio.to_thread(scrape_milliseconds, port)
            os.kill(os.getpid(), signal.SIGTERM)  # as anybody stops a service
            await serving
    provider.shutdown()
    in_place = {kind: switch.clocked[kind] / 1e3 / switch.carried[kind] for kind in switch.tracings}
    alone = figures([asked.sampled])
    off = Sums.of([one[OFF] for one in switch.rounds])
    return {
        "events": switch.settled,
        "rounds": len(switch.rounds),
        "off": {"events_per_second": round(off.events_per_second), "cpu_microseconds": round(off.cpu_microseconds)},
        "microseconds_in_place": {kind: round(value, 2) for kind, value in in_place.items()},
        "price": {
            kind: {
                "in place": round((in_place[kind] - in_place[OFF]) / off.cpu_microseconds, 4),
                **prices(switch.rounds, kind),
            }
            for kind in (METRICS, traced)
        },
        "scrape_milliseconds": round(scrape_ms, 1),
        "price_of_a_scrape_every_15_s": round(scrape_ms / 1e3 / _SCRAPE_EVERY_SECONDS, 4),
        "microseconds_alone": alone,
        "price_of_off": {sender: round(value / off.cpu_microseconds, 4) for sender, value in alone[OFF].items()},
        "cores": os.cpu_count(),
        "machine": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="about so long, at --rate")
    parser.add_argument("--rate", type=float, default=2500.0, help="events a second that this machine can do")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--sampled", type=float, default=0.01, help="share of events to trace")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka, collecting() as endpoint:
        found: dict[str, Any] = {}

        async def measured() -> None:
            found.update(await measure(kafka, Path(name), endpoint, asked))

        run(measured())  # as `earwitness serve` runs: its loop, its garbage collection
    print(json.dumps(found, indent=1))
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
