"""Suspects of several lanes in one process: the death that one of them causes must not be laid at another's door."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from consumer.core.model import Record
from consumer.core.suspicion import CAREFUL_AFTER_DEATHS
from consumer.kafka import lane
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.support.kafka import Broker, Written, fresh_settings, read_topic, write_records
from tests.support.lanes import Outcome, ScriptedWork, joined

pytestmark = pytest.mark.kafka

SLOW_SECONDS = 1.0


@pytest.fixture
async def settings(kafka: Broker, tmp_path: Path) -> Settings:
    """Two lanes."""
    settings = fresh_settings(
        kafka.bootstrap_servers,
        partitions=2,
        state_dir=tmp_path,
        session_timeout_ms=3000,
        heartbeat_interval_ms=300,
        commit_interval_ms=20,
    )
    await create(settings)
    return settings


class DeadlyWork(ScriptedWork):
    """The killer in one lane ends the process while, if that may be, the innocent event in the other is tried too."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_is_tried, self.deadly = asyncio.Event(), asyncio.Event()
        self.held = {b"killer"}

    async def settle(self, record: Record) -> Outcome:
        if record.value == b"killer":
            await happens(self.slow_is_tried)
            self.deadly.set()
        elif record.value == b"slow":
            self.slow_is_tried.set()
            if await happens(self.deadly):
                await asyncio.Event().wait()  # its process is dead
        return await super().settle(record)


async def happens(event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), SLOW_SECONDS)
    return event.is_set()


async def test_an_event_that_is_tried_while_another_lane_has_the_killer_is_not_condemned(
    settings: Settings,
) -> None:
    write_records(
        settings.kafka_bootstrap_servers,
        settings.topics.events,
        [Written(b"killer", partition=0), Written(b"slow", partition=1)],
    )
    condemned: list[bytes | None] = []
    for _ in range(10):
        work = DeadlyWork()
        async with joined(settings, work, drain=False) as member:
            await member.until(lambda work=work: work.deadly.is_set() or bool(work.condemned))  # type: ignore[misc]
            if not work.deadly.is_set():
                await member.until(
                    lambda: len(read_topic(settings.kafka_bootstrap_servers, settings.topics.transcripts)) == 2
                )
        condemned += [record.value for record in work.condemned]
        if b"killer" in condemned:
            break

    assert condemned == [b"killer"]
    assert len(read_topic(settings.kafka_bootstrap_servers, settings.topics.transcripts)) == 2


async def test_lanes_wait_for_a_trial_only_so_long_as_a_killer_of_the_quick_kind_lives(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [Written(b"long", partition=0), Written(b"short", partition=1)]
    write_records(settings.kafka_bootstrap_servers, settings.topics.events, both)
    for _ in range(CAREFUL_AFTER_DEATHS):
        dying = ScriptedWork()
        dying.held = {b"long", b"short"}
        async with joined(settings, dying, drain=False) as member:
            await member.until(lambda dying=dying: len(dying.given) == 2)  # type: ignore[misc]

    monkeypatch.setattr(lane, "TRIAL_SECONDS", 0.2)
    work = ScriptedWork()
    work.held = {b"long"}
    async with joined(settings, work) as member:
        await member.until(lambda: [record.value for record in work.confirmed] == [b"short"])
        work.release()
        await member.until(lambda: len(work.confirmed) == 2)
