"""The load: tiny recordings, unlike each other, and events about them at a steady rate. Talks librdkafka."""

import hashlib
import json
import random
import threading
import time
import wave
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from confluent_kafka import Producer

from tests.faults.plan import GOOD, PlannedEvent, Shape
from tests.support.fragile_ctc import KILLS

SAMPLE_RATE = 16_000
PATIENCE_SECONDS = 300
"""How long a record may wait for brokers that the adversary has killed."""


@dataclass(frozen=True, slots=True)
class Published:
    """An event that the brokers have acknowledged, and where."""

    event: PlannedEvent
    digest: str
    text: str
    """What a run without faults makes of the recording."""
    partition: int
    offset: int
    at: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Load:
    """Publishes a plan's events; ``run`` blocks, on a thread of its own."""

    bootstrap_servers: str
    topic: str
    folder: Path
    recording_seconds: float = 0.1
    digests: dict[int, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """What is heard in recordings by digest, where it is not the simulated engine that hears them."""
    published: list[Published] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Events whose fate the producer could not tell; a run with any proves nothing about them."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def record(self, events: Iterable[PlannedEvent]) -> None:
        """Make the recordings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for event in events:
            if event.recording not in self.digests:
                path = self.path(event.recording)
                (_toxic if event.shape is Shape.TOXIC else _noise)(path, event.recording, self.recording_seconds)
                self.digests[event.recording] = hashlib.sha256(path.read_bytes()).hexdigest()
        (self.folder / "corrupt.wav").write_bytes(b"fLaC" + bytes(range(256)) * 4)

    @property
    def recordings(self) -> list[Path]:
        """All that can be heard."""
        return [self.path(number) for number in sorted(self.digests)]

    def path(self, number: int) -> Path:
        return self.folder / f"{number}.wav"

    def run(self, events: Iterable[PlannedEvent]) -> None:
        """Publish each event at its time, and wait until all are acknowledged."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "message.timeout.ms": PATIENCE_SECONDS * 1000,
                "log_level": 0,
            }
        )
        begun = time.monotonic()
        for event in events:
            while not self.stopped.is_set() and (left := begun + event.at_seconds - time.monotonic()) > 0:
                producer.poll(min(left, 0.2))
            if self.stopped.is_set():
                break
            key, value = self._record_of(event)
            producer.produce(self.topic, value, key, on_delivery=partial(self._delivered, event))
        if left_over := producer.flush(PATIENCE_SECONDS):
            raise TimeoutError(f"{left_over} events were not acknowledged within {PATIENCE_SECONDS} s")

    def _delivered(self, event: PlannedEvent, error: Any, message: Any) -> None:
        if error is not None:
            self.refused.append(f"{event.event_id}: {error}")
            return
        digest = self.digests[event.recording]
        text = self.texts.get(digest, f"simulated {digest[:16]}")
        self.published.append(Published(event, digest, text, message.partition(), message.offset(), time.time()))

    def _record_of(self, event: PlannedEvent) -> tuple[bytes, bytes]:
        digest, own_key = self.digests[event.recording], event.event_id.encode()
        if event.shape is Shape.NOT_JSON:
            return own_key, b"{" + own_key
        fields: dict[str, Any] = {"event_id": event.event_id, "tenant": event.tenant}
        if event.shape is Shape.NO_EVENT:
            return own_key, json.dumps(fields).encode()
        path = {Shape.ABSENT: self.folder / "absent.wav", Shape.CORRUPT: self.folder / "corrupt.wav"}.get(event.shape)
        fields["uri"] = (path or self.path(event.recording)).as_uri()
        if event.shape in (Shape.KEYED, Shape.MISPLACED, Shape.TOXIC):
            fields["sha256"] = digest
        elif event.shape is Shape.MISMATCH:
            fields["sha256"] = hashlib.sha256(own_key).hexdigest()
        key = digest.encode() if event.shape in (Shape.KEYED, Shape.TOXIC) else own_key
        return key, json.dumps(fields).encode()


def _noise(path: Path, number: int, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(random.Random(number).randbytes(2 * round(seconds * SAMPLE_RATE)))


def _toxic(path: Path, number: int, seconds: float) -> None:
    samples = np.random.default_rng(number).normal(0, 3000, round(seconds * SAMPLE_RATE)).astype(np.int16)
    samples[0] = KILLS
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


def is_good(event: PlannedEvent) -> bool:
    """Whether a transcript is due."""
    return event.shape in GOOD
