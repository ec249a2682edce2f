"""The whole service, measured from the first event published to the last transcript that can be read."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.bench.clips import Clip
from tests.bench.contestants import WARM_UP_CLIPS, Found
from tests.bench.processes import PeakMemory, cpu_seconds, on_cores
from tests.support.kafka import Written, partition_count
from tests.support.service import serving

TIMEOUT_SECONDS = 3600.0
LOADED_SECONDS = 600.0
"""A model of the true size may take so long until it hears."""
FLUSH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """When a transcript could be read, on the monotonic clock, and what it says."""

    at: float
    text: str


class Reader:
    """Reads transcripts as they are committed, in a thread; a dead letter is an error of the bench."""

    def __init__(self, settings: Settings) -> None:
        topics = (settings.topics.transcripts, settings.topics.dead_letters)
        servers = settings.kafka_bootstrap_servers
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "unused",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        self._consumer.assign(
            [
                TopicPartition(topic, number, OFFSET_BEGINNING)
                for topic in topics
                for number in range(partition_count(servers, topic))
            ]
        )
        self._dead_letters = settings.topics.dead_letters
        self._seen: dict[str, Seen] = {}
        self._failure: Exception | None = None
        self._more = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._read, name="transcript reader")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self._stop = True
        self._thread.join()
        self._consumer.close()

    def until(self, event_ids: set[str]) -> dict[str, Seen]:
        """Wait for the transcripts of these events; blocks. Raises RuntimeError for a dead letter."""
        self._wait(lambda: event_ids <= self._seen.keys())
        return {name: self._seen[name] for name in event_ids}

    def until_count(self, count: int) -> None:
        """Wait until so many events have a transcript; blocks. Raises as ``until``."""
        self._wait(lambda: len(self._seen) >= count)

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._more:
            came = self._more.wait_for(lambda: self._failure is not None or done(), TIMEOUT_SECONDS)
            if self._failure is not None:
                raise self._failure
            if not came:
                raise TimeoutError(f"after {TIMEOUT_SECONDS:.0f} s there are {len(self._seen)} transcripts, not all")

    def _read(self) -> None:
        while not self._stop:
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            with self._more:
                if (error := message.error()) is not None:
                    self._failure = self._failure if error.retriable() else KafkaException(error)
                elif message.topic() == self._dead_letters:
                    self._failure = RuntimeError(f"a recording became a dead letter: {message.value().decode()[:500]}")
                else:
                    told = json.loads(message.value())
                    if told["event_id"] in self._seen:
                        self._failure = RuntimeError(f"{told['event_id']} has two transcripts")
                    self._seen[told["event_id"]] = Seen(time.monotonic(), told["text"])
                self._more.notify_all()


class Publisher:
    """A producer that is connected before the clock starts; keys go where Java's producer puts them."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.events
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "log_level": 0,
            }
        )
        self._producer.list_topics(self._topic, timeout=FLUSH_SECONDS)

    def publish(self, event: Written) -> None:
        self._producer.produce(self._topic, event.value, event.key)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is with the broker."""
        if left := self._producer.flush(FLUSH_SECONDS):
            raise TimeoutError(f"{left} events were not delivered within {FLUSH_SECONDS} s")


async def run_service(
    settings: Settings, clips: list[Clip], cores: set[int], paced_at: Callable[[float], list[float]]
) -> Found:
    """One fresh service on ``cores``, on fresh topics. The clips come at once; then some of them one by one.

    ``paced_at`` is given the speed, × real time, and gives the moments of those. Kafka is there already.
    """
    await create(settings)
    with on_cores(cores):
        service_context = serving(settings)
        service = await service_context.__aenter__()
    try:
        await service.until_log("lane_open", settings.partitions, LOADED_SECONDS)
        pid = service.process.pid
        audio_seconds = sum(clip.seconds for clip in clips)
        with Reader(settings) as reader, PeakMemory(pid) as memory:
            publisher = Publisher(settings)
            await all_at_once(publisher, reader, events_of(clips[:WARM_UP_CLIPS], "warm-up"))
            events = events_of(clips, "clip")
            used, began = cpu_seconds(pid), time.monotonic()
            seen = await all_at_once(publisher, reader, events)
            ended = max(one.at for one in seen.values())
            used = cpu_seconds(pid) - used
            moments = paced_at(audio_seconds / (ended - began))
            paced = dict(list(events_of(clips, "paced").items())[: len(moments)])
            latencies = await asyncio.to_thread(_one_by_one, publisher, reader, paced, moments)
        code = await service.stop()
        if code:
            raise RuntimeError("the service failed:\n" + "\n".join(service.lines[-20:]))
    finally:
        await service_context.__aexit__(None, None, None)
    texts = {clip.name: seen[f"clip-{clip.name}"].text for clip in clips}
    return Found(ended - began, audio_seconds, used, texts, latencies, memory.peak_bytes)


async def all_at_once(publisher: Publisher, reader: Reader, events: dict[str, Written]) -> dict[str, Seen]:
    for event in events.values():
        publisher.publish(event)
    await asyncio.to_thread(publisher.flush)
    return await asyncio.to_thread(reader.until, set(events))


def _one_by_one(publisher: Publisher, reader: Reader, events: dict[str, Written], at: list[float]) -> list[float]:
    """The latency of each event, published at its moment."""
    began = time.monotonic()
    published = []
    for moment, event in zip(at, events.values(), strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        published.append(time.monotonic())
        publisher.publish(event)
    seen = reader.until(set(events))
    publisher.flush()
    return [seen[name].at - moment for name, moment in zip(events, published, strict=True)]


def events_of(clips: list[Clip], tenant: str) -> dict[str, Written]:
    """By id; another tenant's clips are heard anew."""
    return {f"{tenant}-{clip.name}": _event(clip, tenant) for clip in clips}


def _event(clip: Clip, tenant: str) -> Written:
    digest = hashlib.sha256(clip.path.read_bytes()).hexdigest()
    event = {
        "event_id": f"{tenant}-{clip.name}",
        "uri": clip.path.absolute().as_uri(),
        "sha256": digest,
        "tenant": tenant,
    }
    return Written(json.dumps(event).encode(), digest.encode())
