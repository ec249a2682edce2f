"""What telemetry costs on the cheapest path there is: events that are answered from the dedup topic.

``python -m tests.bench.telemetry_price [--events 20000] [--pairs 4] [--minutes 9] [--out FILE.json]``: a real broker
and a real service process for each run, on fresh topics with the same events, in turns: with everything off, with
metrics (the HTTP port, scraped every five seconds, and OTLP as often), and with metrics and traces of a sampled share
of the events. Of each round the runs are compared with its own run without telemetry; what is told is the median of the
rounds, with the least and the most. After the first no round begins that would not end within ``--minutes``.

Two prices: of processor time for an event, which is the same on a busy machine, and of events a second. What "off"
costs against no telemetry at all is too little to be seen so: it is counted alone, see ``telemetry_alone``.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from confluent_kafka import Consumer, TopicPartition

from compose.kafka_probe import free_ports
from compose.local_kafka import LocalKafka
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.bench.processes import cpu_seconds
from tests.bench.telemetry_alone import figures
from tests.bench.throughput import make_recordings, publish, wait_for
from tests.support.otlp import collecting
from tests.support.service import serving

OFF, METRICS = "off", "metrics"
_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to run the service."""

    name: str
    sampled: float | None = None
    """Share of events that are traced; None: none, and no tracer."""

    def environment(self, endpoint: str) -> dict[str, str]:
        if self.name == OFF:
            return {}
        interval_ms = f"{1000 * _EVERY_SECONDS:.0f}"
        common = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRIC_EXPORT_INTERVAL": interval_ms}
        if self.sampled is None:
            return {**common, "OTEL_TRACES_EXPORTER": "none"}
        return {
            **common,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(self.sampled),
        }


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Look at ``/metrics`` every five seconds; Prometheus by itself looks each minute."""
    stop = threading.Event()

    def look() -> None:
        while port and not stop.wait(_EVERY_SECONDS):
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                answer.read()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Run:
    """From the first lane's opening until the group has committed everything."""

    events_per_second: float
    cpu_microseconds: float
    """Of the service, for each event."""


async def one_run(kafka: LocalKafka, folder: Path, kind: Kind, number: int, asked: argparse.Namespace) -> Run:
    name = f"telemetry-{number}-{kind.name}".replace(" ", "-").replace("%", "")
    port = 0 if kind.name == OFF else free_ports(1)[0]
    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        partitions=asked.partitions,
        engine="simulated",
        fetch_allow=[f"file://{folder}/"],
        state_dir=folder / f"state-{name}",
        topic_prefix=name,
        group_id=name,
        http_port=port,
    )
    await create(settings)
    publish(settings, make_recordings(folder), asked.events)
    with collecting() as endpoint:
        async with serving(settings, **kind.environment(endpoint)) as service:
            consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": settings.group_id})
            rows = [TopicPartition(settings.topics.events, partition) for partition in range(settings.partitions)]
            ends = {row.partition: consumer.get_watermark_offsets(row)[1] for row in rows}
            await service.until_log("lane_open")
            begun, used = time.monotonic(), cpu_seconds(service.process.pid)
            with scraped(port):
                await asyncio.to_thread(
                    wait_for, lambda: all(row.offset >= ends[row.partition] for row in consumer.committed(rows))
                )
            seconds, used = time.monotonic() - begun, cpu_seconds(service.process.pid) - used
            consumer.close()
            await service.stop()
    return Run(asked.events / seconds, used / asked.events * 1e6)


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of the rounds, and how far they lie apart."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


async def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Rounds of one run each, every other one backwards, after one that does not count."""
    kinds = [Kind(OFF), Kind(METRICS), *(Kind(f"metrics and {share:.0%} traced", share) for share in asked.sampled)]
    runs: dict[str, list[Run]] = {kind.name: [] for kind in kinds}
    alone = figures(asked.sampled)
    end, longest = time.monotonic() + 60 * asked.minutes, 0.0
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        for number in range(asked.pairs + 1):
            if number > 1 and time.monotonic() + longest > end:
                break
            begun = time.monotonic()
            for kind in kinds[:: 1 if number % 2 else -1]:
                run = await one_run(kafka, Path(name), kind, number, asked)
                rate, cost = f"{run.events_per_second:,.0f} events/s", f"{run.cpu_microseconds:.0f} µs of CPU each"
                print(f"{f'round {number}' if number else 'warm-up'}: {kind.name}: {rate}, {cost}", flush=True)
                if number:
                    runs[kind.name].append(run)
            longest = max(longest, time.monotonic() - begun)
    pairs = {name: list(zip(found, runs[OFF], strict=True)) for name, found in runs.items() if name != OFF}
    off_event_us = statistics.median(run.cpu_microseconds for run in runs[OFF])
    return {
        "events": asked.events,
        "rounds": len(runs[OFF]),
        "events_per_second": {name: [round(run.events_per_second) for run in found] for name, found in runs.items()},
        "cpu_microseconds": {name: [round(run.cpu_microseconds) for run in found] for name, found in runs.items()},
        "price_of_cpu": {
            name: spread([run.cpu_microseconds / off.cpu_microseconds - 1 for run, off in found])
            for name, found in pairs.items()
        },
        "price_of_throughput": {
            name: spread([1 - run.events_per_second / off.events_per_second for run, off in found])
            for name, found in pairs.items()
        },
        "microseconds_alone": alone,
        "off_price": {sender: round(value / off_event_us, 4) for sender, value in alone[OFF].items()},
        "cores": os.cpu_count(),
        "machine": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no round that would not end by then")
    parser.add_argument("--sampled", type=float, nargs="*", default=[0.01, 1.0], help="shares of events to trace")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args()
    found = asyncio.run(compare(asked))
    print(json.dumps(found, indent=1))
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
