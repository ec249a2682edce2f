"""Members that come and go: what a kept lane says of itself, and what static membership and a short life leave."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import TopicPartition

from consumer.core import commit_metadata
from consumer.dedup.restore import restore
from consumer.dedup.store import DedupSlice
from consumer.kafka.client import connection
from consumer.kafka.intake import Intake
from consumer.kafka.transaction import LaneProducer
from consumer.settings import Settings
from schemas.topics import Topics
from tests.support.kafka import Written, write_records
from tests.support.lanes import ScriptedWork, committed, joined, until

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_settings: Settings, topics: Topics, tmp_path: Path) -> Settings:
    fast = {"commit_interval_ms": 20, "session_timeout_ms": 6000, "heartbeat_interval_ms": 200}
    return kafka_settings.model_copy(update={"state_dir": tmp_path, **fast})


async def says_that_it_closed(settings: Settings, partition: int) -> bool:
    found = await committed(settings, partition)
    return commit_metadata.decode(found.metadata, found.offset or 0).clean


async def test_a_lane_that_a_rebalance_left_here_takes_its_last_word_back(settings: Settings) -> None:
    """Else a death after it would look like an orderly end, and an event that kills would kill for ever."""
    servers, topic = settings.kafka_bootstrap_servers, settings.topics.events
    write_records(servers, topic, [Written(b"held", partition=partition) for partition in range(4)])
    work, other = ScriptedWork(), ScriptedWork()
    work.held = other.held = {b"held"}
    async with joined(settings, work, drain=False) as one:
        await one.until(lambda: len(work.given) == 4)
        async with joined(settings, other, drain=False) as two:
            await two.until(lambda: len(two.serving()) == 2)
            await one.until(lambda: len(one.serving()) == 2)
            async with asyncio.timeout(30):
                for partition in one.serving() | two.serving():
                    while await says_that_it_closed(settings, partition):  # noqa: ASYNC110 (only asking tells)
                        await asyncio.sleep(0.05)


async def test_a_static_member_that_is_back_within_its_session_causes_no_rebalance(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignments: list[Intake] = []
    assigned = Intake.on_partitions_assigned

    async def noted(self: Intake, partitions: set[TopicPartition]) -> None:
        assignments.append(self)
        await assigned(self, partitions)

    monkeypatch.setattr(Intake, "on_partitions_assigned", noted)

    def named(name: str) -> Settings:
        # the session must outlast the restart, however slow the machine
        return settings.model_copy(update={"group_instance_id": name, "session_timeout_ms": 45_000})

    async with joined(named("stays")) as stays:
        await stays.until(lambda: len(stays.serving()) == 4)
        async with joined(named("restarts")) as before:
            await before.until(lambda: len(before.serving()) == 2)
            await stays.until(lambda: len(stays.serving()) == 2)
            its_lanes = before.serving()
        told = assignments.count(stays.intake)
        async with joined(named("restarts")) as after:
            await after.until(lambda: len(after.serving()) == 2)
            assert after.serving() == its_lanes
        assert assignments.count(stays.intake) == told


async def test_sticky_assignment_moves_no_lane_that_need_not_move(settings: Settings) -> None:
    async with joined(settings) as one, joined(settings) as two:
        await two.until(lambda: len(two.serving()) == 2 == len(one.serving()))
        before = {id(lane) for member in (one, two) for lane in member.intake.lanes.values()}
        async with joined(settings) as three:
            await three.until(lambda: len(three.serving()) == 1)
            await until(lambda: len(one.serving()) + len(two.serving()) == 3)
            kept = {id(lane) for member in (one, two) for lane in member.intake.lanes.values()}
            assert kept < before


async def test_a_lane_that_is_lost_while_it_restores_waits_for_what_is_being_written(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the slice under a thread that fills it ends the whole process."""
    entries = [Written(b"value", key=b"key %d" % number, partition=0) for number in range(10)]
    places = write_records(settings.kafka_bootstrap_servers, settings.topics.dedup, entries)
    loop, begun, may_end = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    apply, slice_, order = DedupSlice.apply, DedupSlice(tmp_path / "slice"), list[str]()

    def slow(self: DedupSlice, records: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(30)
        apply(self, records)
        order.append("written")

    monkeypatch.setattr(DedupSlice, "apply", slow)
    partition = TopicPartition(settings.topics.dedup, 0)
    last = max(offset for _, offset in places)
    restoring = asyncio.create_task(restore(connection(settings), partition, last, slice_, group_id=settings.group_id))
    async with asyncio.timeout(30):
        await begun.wait()
        restoring.cancel()
        await asyncio.sleep(0)
        assert not restoring.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await restoring
    order.append("closed")
    slice_.close()
    assert order == ["written", "closed"]


async def test_a_connection_that_breaks_while_a_lane_fences_is_waited_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka wraps it in an error that it calls final."""
    fence, broken = LaneProducer.fence, list[LaneProducer]()

    async def breaks(self: LaneProducer) -> None:
        if len(broken) < 5:
            broken.append(self)
            raise KafkaError("wrapped") from KafkaConnectionError("gone")
        await fence(self)

    monkeypatch.setattr(LaneProducer, "fence", breaks)
    async with joined(settings) as member:
        await member.until(lambda: len(member.serving()) == 4)
    assert len(broken) == 5
