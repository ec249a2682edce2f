"""The one consumer: it gives each lane its records, and follows the group's rebalances.

Heartbeats stand still during the callbacks, and aiokafka swallows what they raise: so they only seek, pause, start
and stop lanes, and hand failures to the service.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from consumer.core.model import Record
from consumer.errors import LaneError, ServiceError
from consumer.kafka.client import may_pass
from consumer.kafka.lane import Lane
from consumer.kafka.lane_parts import LaneState
from consumer.settings import Settings

log = logging.getLogger(__name__)

Given = dict[TopicPartition, list[ConsumerRecord]]
_IDLE_SECONDS = 1.0
_POLL_RECORDS = 500


class Intake(ConsumerRebalanceListener):  # type: ignore[misc]
    """Owns the consumer and the lanes of the partitions that are assigned to it."""

    def __init__(
        self,
        settings: Settings,
        connection: Mapping[str, Any],
        make_lane: Callable[[TopicPartition], Lane],
        on_share: Callable[[float], None] = lambda _: None,
    ) -> None:
        """``on_share`` is told this process's share of the partitions, 0 to 1, whenever it changes."""
        self._settings = settings
        self._on_share = on_share
        self._make_lane = make_lane
        self._lanes: dict[TopicPartition, Lane] = {}
        self._lane_tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self.joined = False
        """It has been in the group: which lanes are its own is known."""
        self.given = 0
        """Records that were given to lanes, some of them twice."""
        self._draining = False
        self._failure: BaseException | None = None
        self._consumer = AIOKafkaConsumer(
            **connection,
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="none",  # nothing relies on it: a lane seeks, and an offset out of range is an error
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            max_poll_interval_ms=24 * 3600 * 1000,  # a full service polls nothing and is well
            partition_assignment_strategy=[assignor(settings.partition_assignor)],
        )

    @property
    def lanes(self) -> Mapping[TopicPartition, Lane]:
        """For health: the lanes of this process."""
        return self._lanes

    @property
    def draining(self) -> bool:
        """It takes no new records, and is about to leave."""
        return self._draining

    def partitions(self) -> int:
        """The input topic's partition count, as the brokers say."""
        known = self._consumer.partitions_for_topic(self._settings.topics.events)
        if not known:
            raise ServiceError(f"the brokers know no partition of {self._settings.topics.events}")
        return len(known)

    async def start(self) -> None:
        """Connect. Raises ServiceError if no broker answers."""
        try:
            await self._consumer.start()
        except KafkaError as error:
            raise ServiceError(f"cannot reach Kafka at {self._settings.kafka_bootstrap_servers}: {error!r}") from error

    async def run(self) -> None:
        """Join the group and give records to lanes until ``drain``. Raises what a lane or the consumer died of."""
        async with asyncio.TaskGroup() as self._tasks:
            self._consumer.subscribe([self._settings.topics.events], listener=self)
            while not self._draining:
                await self._poll()
            await self._drain()

    def drain(self) -> None:
        """Take no new records; ``run`` returns when what is in flight is committed, or the grace is over."""
        self._draining = True
        self.changed()

    async def stop(self) -> None:
        """Leave the group."""
        await self._consumer.stop()

    # as the lanes see it

    def is_assigned(self, partition: TopicPartition) -> bool:
        return partition in self._consumer.assignment()

    def begin(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(partition, offset)
        self._consumer.resume(partition)

    def changed(self) -> None:
        self._changed.set()

    async def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """The first and the next offset of a partition."""
        first = await self._consumer.beginning_offsets([partition])
        end = await self._consumer.end_offsets([partition])
        return first[partition], end[partition]

    async def ends(self) -> dict[TopicPartition, int]:
        """The next offset of each partition that has a lane here. Raises KafkaError."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(self._lanes))
        return ends

    # records in

    async def _poll(self) -> None:
        """Give records to the lanes that want some, or wait until one does."""
        self._changed.clear()
        if self._failure is not None:
            raise self._failure
        wanting = {tp: (lane, lane.generation) for tp, lane in self._lanes.items() if lane.wants_records}
        async with asyncio.TaskGroup() as group:
            change = group.create_task(self._changed.wait())
            poll = group.create_task(self._get(list(wanting)))
            await asyncio.wait([change, poll], return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            poll.cancel()  # between taking records and returning them the consumer never waits: none is lost
        if not poll.cancelled():
            self._give(wanting, poll.result())

    async def _get(self, wanting: list[TopicPartition]) -> Given:
        try:
            if not wanting:
                # getmany would give everything; but the group's fatal errors must come out
                await asyncio.sleep(_IDLE_SECONDS)
                self._consumer._coordinator.check_errors()  # noqa: SLF001
                return {}
            given: Given = await self._consumer.getmany(
                *wanting, timeout_ms=round(_IDLE_SECONDS * 1000), max_records=_POLL_RECORDS
            )
        except OffsetOutOfRangeError as error:
            raise LaneError(
                f"retention has deleted unheard events of {self._settings.topics.events} ({error}): raise retention.ms"
            ) from error
        except UnicodeDecodeError as error:
            # aiokafka cannot get past such a record, and would lose those before it if it was asked again
            raise LaneError(
                f"a record of {self._settings.topics.events} has a header whose name is not UTF-8 ({error}), as Kafka "
                "demands: find it with a console consumer, and move the group past it with `kafka-consumer-groups.sh "
                "--reset-offsets --to-offset`"
            ) from error
        except KafkaError as error:
            if not may_pass(error):
                raise ServiceError(f"the consumer group {self._settings.group_id} fails: {error!r}") from error
            log.warning("polling_again: %r", error)
            await asyncio.sleep(_IDLE_SECONDS)
            return {}
        return given

    def _give(self, wanting: Mapping[TopicPartition, tuple[Lane, int]], given: Given) -> None:
        for partition, (lane, generation) in wanting.items():
            if lane.generation != generation:
                continue
            if records := given.get(partition):
                self.given += len(records)
                lane.offer([_record(record) for record in records])
            elif (position := self._position(partition)) is not None:
                lane.reached(position)

    def _position(self, partition: TopicPartition) -> int | None:
        """The position if it is known without waiting: after a wait it might be that of an earlier assignment."""
        if not self.is_assigned(partition):
            return None
        asking = self._consumer.position(partition)
        try:
            asking.send(None)
        except StopIteration as answer:
            return int(answer.value)
        asking.close()
        return None

    # rebalances

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002 (it is always all)
        """All partitions are revoked before anyone knows who keeps what: commit what is finished, take nothing new."""
        try:
            for lane in self._lanes.values():
                lane.hold()
            await self._hand_over(self._settings.revoke_drain_seconds)
        except Exception as error:  # noqa: BLE001 (aiokafka would swallow it)
            self._fail(error)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Kept lanes go on where they were; lost ones end; new ones open on their own time."""
        try:
            for partition in set(self._lanes) - assigned:
                self._lose(partition)
            for partition in assigned:
                lane = self._lanes.get(partition)
                if lane is None or lane.state is LaneState.CLOSED:
                    self._open(partition)
                    continue
                if (offset := lane.next_offset) is not None:
                    self._consumer.seek(partition, offset)  # aiokafka has reset it to the committed offset
                else:
                    self._keep_silent(partition)
                if not self._draining:
                    lane.resume()
            self.joined = True
            self._on_share(len(assigned) / self.partitions())
            log.info("assigned %s", sorted(partition.partition for partition in assigned))
            self.changed()
        except Exception as error:  # noqa: BLE001 (aiokafka would swallow it)
            self._fail(error)

    def _open(self, partition: TopicPartition) -> None:
        self._keep_silent(partition)
        if self._tasks is None or self._draining:
            return
        lane = self._lanes[partition] = self._make_lane(partition)
        self._lane_tasks[partition] = self._tasks.create_task(lane.run(), name=f"lane {partition.partition}")

    def _keep_silent(self, partition: TopicPartition) -> None:
        # a position of some kind keeps aiokafka from asking for one; paused, nothing is fetched from it
        self._consumer.pause(partition)
        self._consumer.seek(partition, 0)

    def _lose(self, partition: TopicPartition) -> None:
        del self._lanes[partition]
        self._lane_tasks.pop(partition).cancel()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self.changed()

    # the end

    async def _drain(self) -> None:
        """Finish what was begun within the grace, commit it, and close the lanes in order."""
        for lane in self._lanes.values():
            lane.hold()
        end = asyncio.get_running_loop().time() + self._settings.shutdown_grace_seconds
        try:
            async with asyncio.timeout_at(end):
                while self._in_flight():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("grace_over: %d events are not finished; they will be given again", self._in_flight())
        await self._hand_over(self._settings.revoke_drain_seconds)
        for partition in list(self._lanes):
            self._lose(partition)

    def _in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes.values())

    async def _hand_over(self, limit_seconds: float) -> None:
        try:
            async with asyncio.timeout(limit_seconds):
                await asyncio.gather(*(lane.hand_over() for lane in self._lanes.values()))
        except TimeoutError:
            log.warning("not every lane could commit within %g s", limit_seconds)


def assignor(name: str) -> type:
    """A consumer's own partition assignor, by the setting."""
    assignors: dict[str, type] = {
        "range": RangePartitionAssignor,
        "roundrobin": RoundRobinPartitionAssignor,
        # keeps its state on the class: each consumer gets its own
        "sticky": type("StickyAssignor", (StickyPartitionAssignor,), {}),
    }
    return assignors[name]


def _record(record: ConsumerRecord) -> Record:
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple((name, value or b"") for name, value in record.headers),
    )
