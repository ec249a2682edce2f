"""What a lane promises, on real Kafka: each rule fails on the naive way that it replaces."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from consumer.core import commit_metadata
from consumer.core.model import Record
from consumer.core.outcomes import Write
from consumer.core.suspicion import NO_SUSPICION
from consumer.dedup.restore import restore
from consumer.errors import LaneError, ServiceError
from consumer.kafka import member as member_module
from consumer.kafka.lane_parts import LaneState
from consumer.kafka.transaction import LaneProducer, OffsetCommit
from consumer.settings import Settings
from consumer.turns import Turns
from schemas.topics import Topics
from tests.support.kafka import Written, read_topic, write_records
from tests.support.lanes import Outcome, ScriptedWork, committed, joined, thief, until

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_settings: Settings, topics: Topics, tmp_path: Path) -> Settings:
    return kafka_settings.model_copy(
        update={
            "state_dir": tmp_path,
            "commit_interval_ms": 20,
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 200,
            "transaction_timeout_ms": 5000,
        }
    )


def publish(settings: Settings, *values: bytes, partition: int = 0) -> list[int]:
    """Write events; their offsets."""
    written = write_records(
        settings.kafka_bootstrap_servers,
        settings.topics.events,
        [Written(value, partition=partition) for value in values],
    )
    return [offset for _, offset in written]


def transcripts(settings: Settings) -> list[bytes]:
    return sorted(
        read.value or b"" for read in read_topic(settings.kafka_bootstrap_servers, settings.topics.transcripts)
    )


class _LongWork(ScriptedWork):
    """Each event takes a second of computing, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.most_in_a_turn = 0
        self._in_this_turn = 0

    async def settle(self, record: Record) -> Outcome:
        if not self._in_this_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._in_this_turn += 1
        self.most_in_a_turn = max(self.most_in_a_turn, self._in_this_turn)
        self.now += 1.0
        return await super().settle(record)

    def _next_turn(self) -> None:
        self._in_this_turn = 0


async def test_all_lanes_together_begin_no_more_in_a_turn_of_the_loop_than_there_is_time_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for partition in range(4):
        publish(settings, *(b"%d" % number for number in range(50)), partition=partition)
    work = _LongWork()
    monkeypatch.setattr(member_module, "Turns", lambda: Turns(2.0, lambda: work.now))

    async with joined(settings, work) as member:
        await member.until(lambda: len(member.work.confirmed) == 200)

    # as many as there is time for, and the one that has waited longest
    assert work.most_in_a_turn <= 3


async def test_every_event_has_one_outcome_and_a_drained_partition_has_no_lag(settings: Settings) -> None:
    end = max(publish(settings, *(b"%d" % number for number in range(50)))) + 1

    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 50)

    assert transcripts(settings) == sorted(b"%d" % number for number in range(50))
    assert (await committed(settings)).offset == end


async def test_a_slow_event_holds_the_offset_but_nothing_behind_it_and_alone_is_given_again(settings: Settings) -> None:
    first, *_ = publish(settings, b"slow", b"a", b"b", b"c")
    work = ScriptedWork()
    work.held = {b"slow"}

    async with joined(settings, work, drain=False) as member:
        await member.until(lambda: len(member.work.confirmed) == 3)

    assert transcripts(settings) == [b"a", b"b", b"c"]
    assert (await committed(settings)).offset == first
    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
        assert [record.value for record in member.work.given] == [b"slow"]
    assert transcripts(settings) == [b"a", b"b", b"c", b"slow"]


async def test_a_kept_lane_goes_on_where_it_was_through_a_rebalance(settings: Settings) -> None:
    for partition in range(4):
        publish(settings, *(b"%d-%d" % (partition, number) for number in range(10)), partition=partition)
    work, other = ScriptedWork(), ScriptedWork()
    work.held = other.held = {b"%d-%d" % (partition, number) for partition in range(4) for number in range(10)}

    async with joined(settings, work) as one:
        await one.until(lambda: len(work.given) == 40)
        async with joined(settings, other) as two:
            await two.until(lambda: len(two.serving()) == 2 and len(other.given) == 20)
            kept = one.serving()
            await one.until(lambda: len(one.serving()) == 2)
            kept = one.serving()

            assert kept.isdisjoint(two.serving())
            assert len(work.given) == 40, "records in flight on kept lanes were given again"
            assert {record.partition for record in other.given} == two.serving()
            work.release()
            other.release()
            await one.until(lambda: len(work.confirmed) == 20)
            await two.until(lambda: len(other.confirmed) == 20)

    assert len(transcripts(settings)) == len(set(transcripts(settings))) == 40


async def test_a_lane_whose_id_was_stolen_is_silent_at_once_and_opens_again(settings: Settings) -> None:
    publish(settings, b"before")
    work = ScriptedWork()
    async with joined(settings, work) as member:
        await member.until(lambda: len(work.confirmed) == 1)
        async with thief(settings):
            publish(settings, b"after")
            await member.until(lambda: len(work.dropped) == 1)
            assert transcripts(settings) == [b"before"]
        await member.until(lambda: len(work.confirmed) == 2)

    assert transcripts(settings) == [b"after", b"before"]


async def test_opening_ends_the_transaction_that_a_dead_owner_left_open(settings: Settings) -> None:
    publish(settings, b"event")
    events = TopicPartition(settings.topics.events, 0)
    async with thief(settings) as dead:
        await dead.begin_transaction()
        await dead.send_and_wait(settings.topics.transcripts, b"of a dead owner", partition=0)
        await dead.send_offsets_to_transaction({events: OffsetAndMetadata(1, "")}, settings.group_id)

        async with joined(settings) as member:
            await member.until(lambda: len(member.work.confirmed) == 1)

    assert transcripts(settings) == [b"event"]


async def test_a_commit_that_went_through_without_an_answer_is_not_made_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiokafka import AIOKafkaProducer

    commit = AIOKafkaProducer.commit_transaction
    lost: list[AIOKafkaProducer] = []

    async def answer_lost(producer: AIOKafkaProducer) -> None:
        ours = transcripts_sent(producer) and not lost
        await commit(producer)
        if ours:
            lost.append(producer)
            raise TimeoutError

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", answer_lost)
    publish(settings, b"once")

    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)

    assert lost
    assert transcripts(settings) == [b"once"]


async def test_a_commit_that_never_arrived_is_made_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiokafka import AIOKafkaProducer

    commit = AIOKafkaProducer.commit_transaction
    lost: list[AIOKafkaProducer] = []

    async def request_lost(producer: AIOKafkaProducer) -> None:
        if transcripts_sent(producer) and not lost:
            lost.append(producer)
            raise TimeoutError
        await commit(producer)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", request_lost)
    publish(settings, b"once")

    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)

    assert lost
    assert transcripts(settings) == [b"once"]


async def test_an_outcome_that_kafka_refuses_stops_the_service_and_leaves_its_event_uncommitted(
    settings: Settings,
) -> None:
    # aiokafka's commit would succeed although the send failed: the event would be gone
    (offset,) = publish(settings, b"event")
    work = ScriptedWork()
    work.output = lambda _: b"x" * (settings.max_event_bytes * 3)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with joined(settings, work, drain=False) as member:
            await member.until(lambda: False)

    assert caught.group_contains(LaneError, match="cannot commit")
    assert (await committed(settings)).offset == offset


async def test_the_first_opening_commits_where_it_starts_and_a_missing_offset_then_stops_loudly(
    settings: Settings,
) -> None:
    publish(settings, b"event")
    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
        await member.until(lambda: member.serving() == {0, 1, 2, 3})
    for partition in range(4):
        assert (await committed(settings, partition)).offset is not None

    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for future in admin.delete_consumer_groups([settings.group_id]).values():
        future.result()

    with pytest.raises(BaseExceptionGroup) as caught:
        async with joined(settings, drain=False) as member:
            await member.until(lambda: False)
    assert caught.group_contains(LaneError, match="is gone")


async def test_retention_that_overtook_the_committed_offset_stops_loudly(settings: Settings) -> None:
    work = ScriptedWork()
    work.held = {b"unheard"}
    offset = publish(settings, b"unheard", b"later")[0]
    async with joined(settings, work, drain=False) as member:
        await member.until(lambda: len(work.confirmed) == 1)
    assert (await committed(settings)).offset == offset

    from confluent_kafka import TopicPartition as Row
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for future in admin.delete_records([Row(settings.topics.events, 0, offset + 1)]).values():
        future.result()

    with pytest.raises(BaseExceptionGroup) as caught:
        async with joined(settings, drain=False) as member:
            await member.until(lambda: False)
    assert caught.group_contains(LaneError, match="retention")


async def test_the_dedup_slice_is_whole_before_records_are_taken(settings: Settings) -> None:
    keys = [b"default/%064x/0" % number for number in range(500)]
    write_records(
        settings.kafka_bootstrap_servers,
        settings.topics.dedup,
        [Written(b"{}", key=key, partition=0) for key in keys] + [Written(None, key=keys[0], partition=0)],
    )
    async with thief(settings, partition=99) as other:  # a transaction marker at the very end of the partition
        await other.begin_transaction()
        await other.send_and_wait(settings.topics.dedup, b"{}", key=b"default/last/0", partition=0)
        await other.commit_transaction()
    publish(settings, b"event")
    work, seen = ScriptedWork(), []

    async with joined(settings, work) as member:
        work.output = lambda _: seen.append(
            [member.slices.get(0, key) for key in (keys[0], keys[1], keys[-1], b"default/last/0")]
        )
        await member.until(lambda: len(work.confirmed) == 1)

    assert seen == [[None, b"{}", b"{}", b"{}"]]


async def test_an_event_that_kills_the_process_each_time_is_condemned_and_its_neighbours_are_heard_once(
    settings: Settings,
) -> None:
    publish(settings, b"a", b"killer", b"b", b"c")
    deaths = 0
    while await dies_of(settings, b"killer"):
        deaths += 1
        assert deaths < 10, "a crash loop"

    assert deaths == 6, "twice in company, once among few, three times alone"
    assert transcripts(settings) == [b"a", b"b", b"c", b"killer"]


async def test_a_killer_that_comes_behind_a_gap_after_other_deaths_is_found_too(settings: Settings) -> None:
    async with thief(settings, partition=99) as other:  # its marker takes the offset behind the event
        await other.begin_transaction()
        await other.send_and_wait(settings.topics.events, b"a", partition=0)
        await other.commit_transaction()
    assert await dies_of(settings, b"a")
    assert await dies_of(settings, b"a")
    publish(settings, b"killer", b"b", b"c")
    deaths = 0
    while await dies_of(settings, b"killer"):
        deaths += 1
        assert deaths < 10, "a crash loop"

    assert transcripts(settings) == [b"a", b"b", b"c", b"killer"]


async def test_an_event_over_which_the_service_has_stopped_by_itself_is_heard_when_that_is_mended(
    settings: Settings,
) -> None:
    class FullDisk(ScriptedWork):
        async def settle(self, record: Record) -> Outcome:
            raise ServiceError("the disk is full")

    publish(settings, b"a")
    for _ in range(7):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with joined(settings, FullDisk()) as member:
                await member.until(lambda: False)
        assert caught.group_contains(ServiceError, match="full")
    last = await committed(settings)
    found = commit_metadata.decode(last.metadata, last.offset or 0)
    assert (found.clean, found.suspicion) == (True, NO_SUSPICION)

    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
    assert member.work.condemned == []


async def dies_of(settings: Settings, killer: bytes) -> bool:
    """One life of a process that ends, without a word, as soon as it works on the killer; else it drains."""
    work = ScriptedWork()
    work.held = {killer}
    async with joined(settings, work, drain=False) as member:
        await member.until(
            lambda: any(record.value == killer for record in work.given) or len(transcripts(settings)) == 4
        )
        return any(record.value == killer for record in work.given)


async def test_a_process_that_is_fenced_and_opens_again_has_not_died(settings: Settings) -> None:
    publish(settings, b"before")
    async with joined(settings) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
        async with thief(settings):
            publish(settings, b"after")
            await member.until(lambda: len(member.work.dropped) == 1)
        await member.until(lambda: len(member.work.confirmed) == 2)
        found = await committed(settings)

    assert commit_metadata.decode(found.metadata, found.offset or 0).suspicion == NO_SUSPICION


async def test_a_lane_that_cannot_commit_opens_anew_once_and_then_stops_the_process(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, stalled = LaneProducer.commit, list[LaneProducer]()

    async def stalls(producer: LaneProducer, writes: list[Write], position: OffsetCommit | None) -> list[int]:
        if any(write.topic == settings.topics.transcripts for write in writes):
            stalled.append(producer)
            await asyncio.Event().wait()
        return await commit(producer, writes, position)

    monkeypatch.setattr(LaneProducer, "commit", stalls)
    publish(settings, b"event")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with joined(settings.model_copy(update={"commit_stall_seconds": 0.3}), drain=False) as member:
            await member.until(lambda: False)

    assert caught.group_contains(LaneError, match="nothing could be committed")
    assert len(stalled) == 2
    assert transcripts(settings) == []


async def test_a_clean_close_says_so_and_a_crash_does_not(settings: Settings) -> None:
    publish(settings, b"event")
    async with joined(settings, drain=False) as member:
        await member.until(lambda: len(member.work.confirmed) == 1)
    crashed = await committed(settings)
    async with joined(settings) as member:
        await member.until(lambda: member.serving() == {0, 1, 2, 3})
    closed = await committed(settings)

    assert not commit_metadata.decode(crashed.metadata, crashed.offset or 0).clean
    assert commit_metadata.decode(closed.metadata, closed.offset or 0).clean


async def test_draining_finishes_what_was_begun_and_begins_nothing_new(settings: Settings) -> None:
    publish(settings, b"begun")
    work = ScriptedWork()
    work.held = {b"begun"}
    async with joined(settings, work) as member:
        await member.until(lambda: len(work.given) == 1)
        member.intake.drain()
        await member.until(lambda: all(not lane.wants_records for lane in member.intake.lanes.values()))
        publish(settings, b"too late")
        work.release()

    assert transcripts(settings) == [b"begun"]


async def test_opening_lanes_never_hold_up_a_rebalance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, waiting = asyncio.Event(), []

    async def slow(*arguments: Any, **named: Any) -> bool:
        waiting.append(arguments)
        await gate.wait()
        return await restore(*arguments, **named)

    monkeypatch.setattr("consumer.kafka.opening.restore", slow)
    publish(settings, b"event")
    async with joined(settings) as one:
        await one.until(lambda: len(waiting) == 4)
        async with joined(settings) as two:
            await two.until(lambda: len(two.intake.lanes) == 2)
            await one.until(lambda: len(one.intake.lanes) == 2)
            assert {lane.state for lane in one.intake.lanes.values()} == {LaneState.OPENING}
            gate.set()
            await until(lambda: len(one.serving() | two.serving()) == 4)
            await until(lambda: len(one.work.confirmed) + len(two.work.confirmed) == 1)

    assert transcripts(settings) == [b"event"]


async def test_transaction_markers_at_the_end_of_the_input_leave_no_lag(settings: Settings) -> None:
    async with thief(settings, partition=99) as upstream:
        await upstream.begin_transaction()
        await upstream.send_and_wait(settings.topics.events, b"event", partition=0)
        await upstream.commit_transaction()

        async with joined(settings) as member:
            await member.until(lambda: len(member.work.confirmed) == 1)
            (lane,) = (lane for tp, lane in member.intake.lanes.items() if tp.partition == 0)
            await member.until(lambda: lane.next_offset == 2)

    assert (await committed(settings)).offset == 2


async def test_no_more_events_are_worked_on_at_once_than_the_settings_allow(settings: Settings) -> None:
    values = [b"%d" % number for number in range(40)]
    publish(settings, *values)
    work = ScriptedWork()
    work.held = set(values)

    async with joined(settings.model_copy(update={"lane_in_flight": 10}), work) as member:
        await member.until(lambda: len(work.given) == 10)
        assert not any(lane.wants_records for tp, lane in member.intake.lanes.items() if tp.partition == 0)
        work.release(*values[:5])
        await member.until(lambda: len(work.given) == 15)
        work.release()
        await member.until(lambda: len(work.confirmed) == 40)

    assert transcripts(settings) == sorted(values)


def transcripts_sent(producer: object) -> bool:
    """Whether the producer's transaction holds transcripts (and is not an opening's sentinel)."""
    partitions = producer._txn_manager._txn_partitions  # type: ignore[attr-defined]
    return any(tp.topic.endswith(".transcripts") for tp in partitions)
