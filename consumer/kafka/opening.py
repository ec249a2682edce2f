"""How a lane opens. Each step relies on the one before it.

1. its producer starts: the previous owner is fenced, and what it left open is ended
2. sentinels are committed to its partitions of the dedup topic and of the parked events, and their offsets kept
3. the committed offset and metadata are read: only now is that a stable read
4. its dedup slice and its parked events are restored until the sentinels have been read; so is its part of the
   budgets, if there are any
5. the partition must still be assigned
6. that it is open is committed, so that a death from now on is noticed
7. it seeks, and takes records
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka.structs import TopicPartition

from consumer.core.offsets import CommitPoint
from consumer.core.suspicion import NO_SUSPICION, Suspicion
from consumer.dedup.restore import restore
from consumer.dedup.store import DedupSlice
from consumer.errors import FencedError, LaneError
from consumer.kafka.commits import LaneCommits, LastCommit
from consumer.kafka.parked import ParkedEvents
from consumer.to_the_end import heed_cancellation
from schemas.topics import Topics

log = logging.getLogger(__name__)


class Bounds(Protocol):
    """The first and the next offset of the input partition."""

    async def __call__(self, partition: TopicPartition) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening needs besides the lane's own commits."""

    connection: Mapping[str, Any]
    topics: Topics
    folder: Path
    start_at: str
    in_flight: int
    """Events that an owner works on at once at most."""
    bounds: Bounds
    is_assigned: Callable[[TopicPartition], bool]
    on_first: Callable[[], None] = lambda: None
    """Called when a partition is open that no process of the group has ever owned."""

    async def open(self, partition: TopicPartition, commits: LaneCommits, progress: Callable[[], None]) -> "Opened":
        """Steps 1 to 6; the seek is the caller's. Raises LaneError when the lane's state cannot be trusted.

        ``progress`` is called whenever restoring has got on.
        """
        sentinel, parked_sentinel = await commits.take_over([self.topics.parked])
        last = await commits.read_last()
        await commits.restore_account(self.connection, progress)
        slice_, parked = DedupSlice(self.folder), ParkedEvents(self.topics, partition.partition, self.folder)
        try:
            dedup = TopicPartition(self.topics.dedup, partition.partition)
            started = await restore(
                self.connection, dedup, sentinel, slice_, group_id=commits.group_id, progress=progress
            )
            await parked.restore(self.connection, parked_sentinel, progress)
            point, suspicion = await self._start(partition, last, commits, started=started)
            self._demand_assigned(partition)
            marks = [] if started else [commits.started_mark()]
            await commits.commit(marks, point, suspicion=suspicion)
            self._demand_assigned(partition)
            heed_cancellation()
        except BaseException:
            slice_.close()
            parked.close()
            raise
        if last.offset is None:
            self.on_first()
        log.info("lane_open %d at %d", partition.partition, point.offset)
        return Opened(point, suspicion, slice_, parked)

    def _demand_assigned(self, partition: TopicPartition) -> None:
        if not self.is_assigned(partition):
            raise FencedError(f"lane {partition.partition} was lost while it opened")

    async def _start(
        self, partition: TopicPartition, last: LastCommit, commits: LaneCommits, *, started: bool
    ) -> tuple[CommitPoint, Suspicion]:
        first, end = await self.bounds(partition)
        if last.offset is None:
            if started:
                raise LaneError(
                    f"the committed offset of {partition.topic}/{partition.partition} is gone, though this group has "
                    "worked on it: offsets expired or were deleted. Decide where to go on with "
                    "`kafka-consumer-groups.sh --reset-offsets`, then start again"
                )
            return CommitPoint(first if self.start_at == "earliest" else end), NO_SUSPICION
        if last.offset < first:
            raise LaneError(
                f"retention has deleted unheard events of {partition.topic}/{partition.partition}: committed "
                f"{last.offset}, but the log begins at {first}. Raise retention.ms; to go on without them, use "
                "`kafka-consumer-groups.sh --reset-offsets --to-earliest`"
            )
        point, suspicion = CommitPoint(last.offset, last.metadata.settled), last.metadata.suspicion
        if commits.died(last.metadata):
            suspicion = suspicion.after_death(point.offset, min(end, suspects_end(point, self.in_flight)))
            log.warning("unclean_close of lane %d: death %d in a row", partition.partition, suspicion.deaths)
        else:
            suspicion = suspicion.called_off()
        return point, suspicion


@dataclass(frozen=True, slots=True)
class Opened:
    """What a lane starts with."""

    point: CommitPoint
    suspicion: Suspicion
    slice: DedupSlice
    parked: ParkedEvents


def suspects_end(point: CommitPoint, in_flight: int) -> int:
    """One above the highest offset that may have been in flight, if so many unsettled ones were.

    Counted twice over, since transaction markers take offsets too.
    """
    end, left, at = point.offset, 2 * in_flight, point.offset
    for start, stop in (*point.settled, (1 << 62, 1 << 62)):
        end = at + min(left, start - at)
        left -= min(left, start - at)
        if not left:
            break
        at = stop
    return end


Opens = Callable[[TopicPartition, LaneCommits, Callable[[], None]], Awaitable[Opened]]
