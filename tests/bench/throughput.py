"""Events a second through the whole service where nearly all is remembered: what Kafka, lanes and dedup cost.

``python -m tests.bench.throughput [--events 20000] [--partitions 4] [--processes 1]``: a real broker and real service
processes on this machine, broker, service and reader sharing its cores. Short recordings, the simulated engine; every
recording is heard once, all other events are served from the dedup topic.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import soundfile
from confluent_kafka import Consumer, TopicPartition

from compose.local_kafka import LocalKafka
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.support.kafka import Written, read_topic, write_records
from tests.support.service import serving

RECORDINGS = 100


def make_recordings(folder: Path) -> list[tuple[Path, str]]:
    """A second of noise each, and its digest."""
    made = []
    for number in range(RECORDINGS):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 16_000), 16_000)
        made.append((path, hashlib.sha256(path.read_bytes()).hexdigest()))
    return made


def publish(settings: Settings, recordings: list[tuple[Path, str]], events: int) -> None:
    """Events for random recordings, with their digests as keys."""
    chosen = random.Random(1).choices(recordings, k=events)
    write_records(
        settings.kafka_bootstrap_servers,
        settings.topics.events,
        [
            Written(
                json.dumps({"event_id": f"e{n}", "uri": f"file://{path}", "sha256": digest}).encode(), digest.encode()
            )
            for n, (path, digest) in enumerate(chosen)
        ],
    )


def wait_for(true: Callable[[], bool]) -> None:
    """Look again and again; for a thread."""
    while not true():
        time.sleep(0.05)


async def measure(settings: Settings, events: int, processes: int) -> float:
    """Seconds from the first lane's opening until the group has committed everything."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group_id})
    rows = [TopicPartition(settings.topics.events, n) for n in range(settings.partitions)]
    ends = {row.partition: consumer.get_watermark_offsets(row)[1] for row in rows}
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(
                serving(settings.model_copy(update={"state_dir": settings.state_dir / str(n)}))
            )
            for n in range(processes)
        ]
        await services[0].until_log("lane_open")
        started = time.monotonic()
        await asyncio.to_thread(
            wait_for, lambda: all(row.offset >= ends[row.partition] for row in consumer.committed(rows))
        )
        seconds = time.monotonic() - started
        for service in services:
            await service.stop()
    consumer.close()
    return seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder) / "kafka") as kafka:
        settings = Settings(
            kafka_bootstrap_servers=kafka.bootstrap_servers,
            partitions=asked.partitions,
            engine="simulated",
            fetch_allow=[f"file://{folder}/"],
            state_dir=Path(folder) / "state",
            topic_prefix="bench",
        )
        await create(settings)
        publish(settings, make_recordings(Path(folder)), asked.events)
        seconds = await measure(settings, asked.events, asked.processes)
        found = [read.json for read in read_topic(kafka.bootstrap_servers, settings.topics.transcripts)]
        assert len({one["event_id"] for one in found}) == len(found) == asked.events
        heard = sum(not one["cached"] for one in found)
    print(f"{asked.events} events, {heard} recognitions, {asked.processes} process(es), {asked.partitions} partitions")
    print(f"{asked.events / seconds:,.0f} events/s ({seconds:.1f} s) on {os.cpu_count()} cores, {platform.machine()}")


if __name__ == "__main__":
    asyncio.run(main())
