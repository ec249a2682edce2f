"""Whole-service scenarios: tiny recordings, events as anybody might publish them, and everything that came out."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from consumer.core.model import SAMPLE_RATE
from consumer.kafka.topics import create
from consumer.settings import Settings
from schemas.topics import digest_partition
from tests.support.audio_files import write_audio
from tests.support.kafka import PARTITIONS, Read, Written, fresh_settings, read_topic, write_records
from tests.support.service import ServiceProcess, serving

TIMEOUT_SECONDS = 90.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording on disk."""

    path: Path
    digest: str
    seconds: float

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    @property
    def text(self) -> str:
        """What the simulated engine makes of it."""
        return f"simulated {self.digest[:16]}"

    @property
    def partition(self) -> int:
        """Where its digest belongs, among the tests' usual number of partitions."""
        return digest_partition(self.digest, PARTITIONS)


def make_clip(folder: Path, number: int, *, seconds: float = 0.1) -> Clip:
    """A recording unlike any other: noise seeded with ``number``."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).uniform(-0.3, 0.3, round(seconds * SAMPLE_RATE)).astype(np.float32)
    path = write_audio(folder / f"clip-{number}.wav", noise, SAMPLE_RATE)
    return Clip(path, hashlib.sha256(path.read_bytes()).hexdigest(), len(noise) / SAMPLE_RATE)


def clip_in_partition(folder: Path, partition: int, *, start: int = 0, seconds: float = 0.1) -> Clip:
    """A recording whose digest belongs to a partition."""
    number = start
    while (clip := make_clip(folder, number, seconds=seconds)).partition != partition:
        number += 1
    return clip


def event(event_id: str, uri: str, **fields: Any) -> bytes:
    """An audio event as JSON."""
    return json.dumps({"event_id": event_id, "uri": uri, **fields}).encode()


def settings_for(bootstrap_servers: str, folder: Path, **chosen: Any) -> Settings:
    """A simulated service that may read the recordings below ``folder``; two of them differ by ``as_instance``."""
    ours: dict[str, Any] = {
        "engine": "simulated",
        "fetch_allow": [folder.as_uri() + "/"],
        "state_dir": folder / "state",
        "decode_workers": 1,
        "session_timeout_ms": 6000,
        "simulated_realtime_factor": 1000.0,
    }
    return fresh_settings(bootstrap_servers, **{**ours, **chosen})


def as_instance(settings: Settings, name: str, **changed: Any) -> Settings:
    """The same service with a state folder of its own."""
    chosen = {field: getattr(settings, field) for field in settings.model_fields_set}
    return Settings(**{**chosen, "state_dir": settings.state_dir.with_name(f"state-{name}"), **changed})


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Everything that a ``read_committed`` reader finds."""

    transcripts: list[Read]
    metrics: list[Read]
    dead_letters: list[Read]
    dedup: list[Read]

    def transcript(self, event_id: str) -> Read:
        """The one transcript of an event."""
        return _only(self.transcripts, event_id)

    def metric(self, event_id: str) -> Any:
        """The one metric of an event, decoded."""
        return _only(self.metrics, event_id).json

    def dead_letter(self, event_id: str) -> Read:
        """The one dead letter of an event."""
        return _only(self.dead_letters, event_id)

    def reason(self, event_id: str) -> str:
        """Why an event became a dead letter."""
        return str(self.dead_letter(event_id).json["reason"])

    @property
    def recognitions(self) -> int:
        """Transcripts that say they were heard for themselves."""
        return sum(not record.json["cached"] for record in self.transcripts)

    @property
    def entries(self) -> dict[str, Read]:
        """What the dedup topic remembers once it is compacted, the lanes' own marks aside."""
        latest = {record.key: record for record in self.dedup if record.key is not None}
        return {key: record for key, record in latest.items() if record.value is not None and not key.startswith("!")}


def _only(records: list[Read], event_id: str) -> Read:
    found = [record for record in records if record.key == event_id]
    assert len(found) == 1, f"{event_id}: {len(found)} records"
    return found[0]


def outcomes(settings: Settings) -> Outcomes:
    """Read all output topics; blocks."""
    topics = settings.topics
    names = (topics.transcripts, topics.metrics, topics.dead_letters, topics.dedup)
    return Outcomes(*(read_topic(settings.kafka_bootstrap_servers, name) for name in names))


async def publish(settings: Settings, *records: Written) -> list[tuple[int, int]]:
    """Write records to the input topic as they are; their partitions and offsets."""
    return await asyncio.to_thread(write_records, settings.kafka_bootstrap_servers, settings.topics.events, records)


async def read(settings: Settings, topic: str) -> list[Read]:
    """Every committed record of a topic."""
    return await asyncio.to_thread(read_topic, settings.kafka_bootstrap_servers, topic)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Look until ``condition`` (which may block) gives something true, which is returned."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, f"it did not happen within {TIMEOUT_SECONDS:.0f} s: {what}"
        await asyncio.sleep(_LOOK_SECONDS)
    return found


async def until_settled(settings: Settings, count: int, *services: ServiceProcess) -> None:
    """Wait until so many events are settled; fails early, with the logs, if a service has ended."""

    def settled() -> bool:
        ended = [service for service in services if service.process.returncode is not None]
        assert not ended, "\n".join(ended[0].lines)
        return len(read_topic(settings.kafka_bootstrap_servers, settings.topics.metrics)) >= count

    try:
        await until(settled, f"{count} metrics")
    except AssertionError:
        for service in services:
            print("\n".join(["--- a service's log:", *service.lines]))  # pytest shows it with the failure
        raise


@asynccontextmanager
async def fresh_service(settings: Settings, **more: str) -> AsyncIterator[ServiceProcess]:
    """Make the topics, run one instance until every lane is open, and see it end in order after the block."""
    await create(settings)
    async with serving(settings, **more) as service:
        await service.until_log("lane_open", settings.partitions)
        yield service
        code = await service.stop()
        assert code == 0, "\n".join(service.lines)


async def serve_these(settings: Settings, *records: Written, **more: str) -> Outcomes:
    """One instance, these events, and what became of them once all are settled and the service has drained."""
    async with fresh_service(settings, **more) as service:
        await publish(settings, *records)
        await until_settled(settings, len(records), service)
    return await asyncio.to_thread(outcomes, settings)
