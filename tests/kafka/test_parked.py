"""Parked events wait outside of their partition and come back exactly once, whoever dies when."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.core.event import Notes
from consumer.core.model import Record
from consumer.core.outcomes import Moment, Parked, Write
from consumer.kafka.transaction import DoubtfulError, LaneProducer
from consumer.settings import Settings
from schemas.codes import Header, Hold
from schemas.models import utc_now
from schemas.topics import Topics
from tests.support.kafka import Read, Written, read_topic, write_records
from tests.support.lanes import Outcome, ScriptedWork, committed, joined

pytestmark = pytest.mark.kafka

FAR = datetime(2100, 1, 1, tzinfo=UTC)
LONG_AGO_MS = 1_700_000_000_000


@pytest.fixture
def settings(kafka_settings: Settings, topics: Topics, tmp_path: Path) -> Settings:
    changes = {"state_dir": tmp_path, "commit_interval_ms": 20, "session_timeout_ms": 6000, "partitions": 4}
    return kafka_settings.model_copy(update={**changes, "heartbeat_interval_ms": 200, "transaction_timeout_ms": 5000})


@dataclass(slots=True)
class ParkedOutcome(Outcome):
    until: datetime = FAR

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        return Parked(Notes(self.record), Hold.OFF_PEAK, self.until).writes(topics, moment, limit_bytes)


@dataclass
class ParkingWork(ScriptedWork):
    """Parks what it sees for the first time, until ``until``."""

    until: datetime = field(default_factory=lambda: utc_now() + timedelta(seconds=1))

    def __post_init__(self) -> None:
        ScriptedWork.__init__(self)

    async def settle(self, record: Record) -> Outcome:
        if record.header(Header.PARKED_UNTIL) is not None:
            return await ScriptedWork.settle(self, record)
        self.given.append(record)
        return ParkedOutcome(record, self, until=self.until)


def publish(settings: Settings, *written: Written) -> None:
    write_records(settings.kafka_bootstrap_servers, settings.topics.events, written)


def found(settings: Settings, topic: str) -> list[Read]:
    """What is on a topic, the lanes' own marks aside."""
    read = read_topic(settings.kafka_bootstrap_servers, topic)
    return [record for record in read if not (record.key or "").startswith("!")]


def heard(settings: Settings) -> list[bytes]:
    return sorted(record.value or b"" for record in found(settings, settings.topics.transcripts))


def waiting(settings: Settings) -> set[str | None]:
    """Keys that the parked topic holds once it is compacted."""
    latest = {record.key: record.value for record in found(settings, settings.topics.parked)}
    return {key for key, value in latest.items() if value is not None}


async def test_a_parked_event_comes_back_as_it_was_when_it_is_due(settings: Settings) -> None:
    publish(settings, Written(b"later", b"its key", [("x-mine", b"1")], 2, LONG_AGO_MS), Written(b"keyless"))
    work = ParkingWork()
    async with joined(settings, work) as member:
        await member.until(lambda: len(work.confirmed) == 4)

    assert heard(settings) == [b"keyless", b"later"]
    first, again = [record for record in found(settings, settings.topics.events) if record.value == b"later"]
    assert (again.partition, again.key, again.timestamp_ms) == (2, "its key", LONG_AGO_MS)
    assert again.header("x-mine") == b"1"
    assert again.header(Header.ORIGIN) == f"{settings.topics.events}/2/{first.offset}".encode()
    assert again.header(Header.PARKED_FOR) == Hold.OFF_PEAK.encode()
    assert again.header(Header.PARKED_KEY) is None
    keyless = [record for record in found(settings, settings.topics.events) if record.value == b"keyless"]
    assert [record.key for record in keyless] == [None, None]
    assert waiting(settings) == set()
    parked = found(settings, settings.topics.parked)
    assert {record.partition for record in parked if (record.key or "").startswith(f"{settings.topics.events}/2/")} == {
        2
    }


async def test_an_event_that_waits_keeps_nothing_of_its_partition_from_being_done(settings: Settings) -> None:
    publish(settings, Written(b"far", partition=0))
    async with joined(settings, ParkingWork(until=FAR)) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
        publish(settings, *(Written(b"%d" % number, partition=0, headers=_BACK) for number in range(20)))
        await member.until(lambda: len(member.work.confirmed) == 21)
    assert len(heard(settings)) == 20
    assert ((await committed(settings)).offset or 0) >= 21
    assert len(waiting(settings)) == 1


_BACK = [(Header.PARKED_UNTIL, b"2026-01-01T00:00:00+00:00")]


async def test_what_a_killed_owner_had_parked_comes_back_through_the_next_one_once(settings: Settings) -> None:
    publish(settings, *(Written(b"%d" % number, partition=number % 4) for number in range(12)))
    async with joined(settings, ParkingWork(until=FAR), drain=False) as member:
        await member.until(lambda: len(member.work.confirmed) == 12)
    assert len(waiting(settings)) == 12
    soon = utc_now() + timedelta(seconds=0.5)
    publish(settings, *(Written(b"soon-%d" % number, partition=number % 4) for number in range(12)))
    async with joined(settings, ParkingWork(until=soon), drain=False) as member:
        await member.until(lambda: len(member.work.confirmed) >= 12)
    async with joined(settings, ParkingWork(until=FAR)) as member:
        await member.until(lambda: len(heard(settings)) == 12)
    assert heard(settings) == sorted(b"soon-%d" % number for number in range(12))
    assert len(found(settings, settings.topics.events)) == 12 + 2 * 12
    assert len(waiting(settings)) == 12


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_return_whose_commit_was_in_doubt_happens_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    original, doubts = LaneProducer.commit, 0

    async def unanswered(self: LaneProducer, writes: list[Write], *rest: Any) -> list[int]:
        nonlocal doubts
        if doubts or not any(write.topic == settings.topics.events for write in writes):
            return await original(self, writes, *rest)
        doubts += 1
        if arrives:
            await original(self, writes, *rest)
        raise DoubtfulError("no answer", retriable=True)

    monkeypatch.setattr(LaneProducer, "commit", unanswered)
    publish(settings, Written(b"a", partition=0))
    async with joined(settings, ParkingWork()) as member:
        await member.until(lambda: len(member.work.confirmed) == 2)
    assert doubts == 1
    assert len(found(settings, settings.topics.events)) == 2
    assert heard(settings) == [b"a"]


async def test_an_owner_that_is_killed_in_the_middle_of_a_return_leaves_it_whole_or_undone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction has been committed, and nobody of the dead process knows it."""
    original, returned = LaneProducer.commit, asyncio.Event()

    async def never_answers(self: LaneProducer, writes: list[Write], *rest: Any) -> list[int]:
        landed = await original(self, writes, *rest)
        if any(write.topic == settings.topics.events for write in writes):
            returned.set()
            await asyncio.Event().wait()
        return landed

    publish(settings, Written(b"a", partition=0))
    with monkeypatch.context() as patched:
        patched.setattr(LaneProducer, "commit", never_answers)
        async with joined(settings, ParkingWork(), drain=False) as member:
            await member.until(returned.is_set)
    async with joined(settings, ParkingWork()) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
    assert len(found(settings, settings.topics.events)) == 2
    assert heard(settings) == [b"a"]
    assert waiting(settings) == set()
