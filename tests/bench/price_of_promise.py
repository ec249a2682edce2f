"""What exactly-once costs: the service as it is against the same service committing at-least-once, in turns.

``python -m tests.bench.price_of_promise [--events 20000] [--pairs 4] [--out FILE.json]``: a real broker and a real
service process for each run, on fresh topics with the same events; short recordings, the simulated engine, nearly all
of it served from the dedup topic, so that Kafka is the work. At-least-once is the service with another lane producer:
no transactions, every send awaited, then a plain commit of the offset by the group's consumer.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import Consumer, TopicPartition

from compose.local_kafka import LocalKafka
from consumer.cli import main as earwitness
from consumer.core.outcomes import Write
from consumer.kafka import member
from consumer.kafka.intake import Intake
from consumer.kafka.topics import create
from consumer.kafka.transaction import LaneProducer, OffsetCommit, _send
from consumer.settings import Settings
from tests.bench.throughput import make_recordings, publish, wait_for
from tests.support.kafka import read_topic
from tests.support.service import ServiceProcess

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"


class AtLeastOnceProducer(LaneProducer):
    """Writes, waits, commits: a crash between the two is felt as doubles."""

    consumer: AIOKafkaConsumer
    """The group's member: only it may commit without a transaction."""

    async def fence(self) -> None:
        await self.stop()
        producer = AIOKafkaProducer(
            **self._connection, acks="all", enable_idempotence=True, max_request_size=self._max_request_bytes
        )
        await producer.start()
        self._producer = producer

    async def commit(self, writes: list[Write], commit: OffsetCommit | None) -> list[int]:
        assert self._producer is not None
        pending = [await _send(self._producer, write) for write in writes]
        landed = await asyncio.gather(*pending)
        if commit is not None:
            position = OffsetAndMetadata(commit.offset, commit.metadata)
            await self.consumer.commit({commit.partition: position})
        return [record.offset for record in landed]


def serve_at_least_once() -> None:
    """``earwitness serve``, with the other producer."""
    begin = Intake.__init__

    def beginning(intake: Intake, *args: Any, **more: Any) -> None:
        begin(intake, *args, **more)
        AtLeastOnceProducer.consumer = intake._consumer

    Intake.__init__ = beginning  # type: ignore[method-assign,assignment]
    member.LaneProducer = AtLeastOnceProducer  # type: ignore[attr-defined]
    sys.argv[1:] = ["serve"]
    earwitness()


async def measure(settings: Settings, promise: str) -> float:
    """Seconds from the first lane's opening until the group has committed everything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EARWITNESS_")}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        environment[f"EARWITNESS_{name.upper()}"] = ",".join(value) if isinstance(value, list) else str(value)
    plain = [sys.executable, "-m", "tests.bench.price_of_promise", "--serve"]
    command = [Path(sys.executable).with_name("earwitness"), "serve"] if promise == EXACTLY_ONCE else plain
    service = ServiceProcess(
        await asyncio.create_subprocess_exec(
            *command,
            env={**environment, "EARWITNESS_LOG_FORMAT": "text"},
            stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group_id})
    try:
        rows = [TopicPartition(settings.topics.events, number) for number in range(settings.partitions)]
        ends = {row.partition: consumer.get_watermark_offsets(row)[1] for row in rows}
        await service.until_log("lane_open")
        begun = time.monotonic()
        await asyncio.to_thread(
            wait_for, lambda: all(row.offset >= ends[row.partition] for row in consumer.committed(rows))
        )
        return time.monotonic() - begun
    finally:
        await service.stop()
        consumer.close()


async def one_run(kafka: LocalKafka, folder: Path, promise: str, number: int, asked: argparse.Namespace) -> float:
    """Events a second."""
    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        partitions=asked.partitions,
        engine="simulated",
        fetch_allow=[f"file://{folder}/"],
        state_dir=folder / f"state-{number}-{promise}",
        topic_prefix=f"price-{number}-{promise}",
        group_id=f"price-{number}-{promise}",
    )
    await create(settings)
    publish(settings, make_recordings(folder), asked.events)
    seconds = await measure(settings, promise)
    found = read_topic(kafka.bootstrap_servers, settings.topics.transcripts)
    assert len({read.json["event_id"] for read in found}) == len(found) == asked.events
    # transactions leave markers behind each of their parts: the last record is where it is without any, or not
    last = {read.partition: read.offset + 1 for read in found}
    assert (sum(last.values()) > len(found)) == (promise == EXACTLY_ONCE), "not the promise that was meant"
    return float(asked.events / seconds)


async def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Pairs of runs, each begun by the other one, after one of each that does not count."""
    rates: dict[str, list[float]] = {EXACTLY_ONCE: [], AT_LEAST_ONCE: []}
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        for number in range(asked.pairs + 1):
            order = [EXACTLY_ONCE, AT_LEAST_ONCE][:: 1 if number % 2 else -1]
            for promise in order:
                rate = await one_run(kafka, Path(name), promise, number, asked)
                print(f"{'warm-up' if not number else f'pair {number}'}: {promise} {rate:,.0f} events/s", flush=True)
                if number:
                    rates[promise].append(rate)
    prices = [1 - ours / plain for ours, plain in zip(rates[EXACTLY_ONCE], rates[AT_LEAST_ONCE], strict=True)]
    return {
        "command": " ".join(["python", "-m", "tests.bench.price_of_promise", *sys.argv[1:]]),
        "events": asked.events,
        "partitions": asked.partitions,
        "events_per_second": {promise: [round(rate) for rate in found] for promise, found in rates.items()},
        "price_of_each_pair": [round(price, 3) for price in prices],
        "price": round(statistics.median(prices), 3),
        "cores": os.cpu_count(),
        "machine": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve_at_least_once()
        return
    found = asyncio.run(compare(asked))
    print(f"transactions cost {found['price']:.0%} of the throughput (median of {asked.pairs} pairs)")
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
