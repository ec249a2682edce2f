"""A lane: everything that one input partition owns, from opening to close.

Records come in through ``offer``; each is carried by a task of its own; outcomes are committed together, in whatever
order they were reached. Its transactional id fences whoever owned the partition before: ownership rests on that, and
on nothing that a rebalance says.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Sequence

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.core.model import Record
from consumer.core.offsets import CommitPoint, OffsetMap
from consumer.core.outcomes import Moment, Write
from consumer.core.suspicion import Caution
from consumer.errors import FencedError, LaneError
from consumer.kafka.client import may_pass
from consumer.kafka.commits import BACKOFF, HOPELESS_AFTER, LaneCommits
from consumer.kafka.lane_parts import Decided, LaneParts, LaneState, StalledError
from consumer.kafka.opening import Opened
from consumer.kafka.transaction import DoubtfulError
from schemas.models import utc_now

log = logging.getLogger(__name__)

_COMMIT_BYTES = 16 * 1024 * 1024
"""What one transaction writes at most, give or take its last outcome."""
_BREATHER = 25
"""Outcomes that are written out before the event loop gets a turn."""
_BEGUN_AT_ONCE = 8
"""Events that a lane begins before the event loop gets a turn: each may be answered from memory there and then."""


class Lane:
    """One partition's owner; made when it is assigned, cancelled when it is lost."""

    def __init__(self, partition: TopicPartition, commits: LaneCommits, parts: LaneParts) -> None:
        self.partition = partition
        self.state = LaneState.OPENING
        self.generation = 0
        """Grows with each ownership: records fetched for one must not reach the next."""
        self._commits = commits
        self._parts = parts
        self._offsets = OffsetMap(CommitPoint(0))
        self._committed = CommitPoint(0)
        self._pumping: asyncio.Handle | None = None
        self._backlog: deque[Record] = deque()
        self._ready: deque[Decided] = deque()
        self._committing: list[Decided] = []
        self._events: asyncio.TaskGroup | None = None
        self._caution = Caution()
        self._trial: list[Record] = []
        """The suspects that the next commit must name."""
        self._wake = asyncio.Event()
        self._has_committed = asyncio.Event()
        self._held = False
        self._is_clean = False
        """The last commit said that the lane closes in order."""
        self._hopeless = self._stalls = 0
        self._handover: asyncio.Future[None] | None = None
        commits.wakes(self._wake.set)

    # what the consumer asks and says

    @property
    def wants_records(self) -> bool:
        """Whether records may be fetched for it."""
        return self.state is LaneState.SERVING and not self._held and not self._backlog

    @property
    def next_offset(self) -> int | None:
        """Where a kept lane goes on reading; None while it opens."""
        return self._offsets.next_offset if self.state is LaneState.SERVING else None

    @property
    def in_flight(self) -> int:
        """Events given and not yet committed."""
        return self._offsets.unsettled if self.state is LaneState.SERVING else 0

    def offer(self, records: Sequence[Record]) -> None:
        """Take records in order; what comes before the lane's own seek is thrown away."""
        if self.state is LaneState.SERVING and not self._held:
            self._backlog.extend(records)
            self._pump()

    def hold(self) -> None:
        """Take nothing more for now: a rebalance or the end is near. What was not begun will be given again."""
        self._held = True
        self._backlog.clear()

    def resume(self) -> None:
        """The partition was kept."""
        self._held = False
        if self._is_clean:
            self._wake.set()  # a death from now on must be noticed again

    def reached(self, position: int) -> None:
        """The consumer stands here with nothing more to give: transaction markers may lie behind."""
        if self.state is LaneState.SERVING and not self._backlog:
            self._offsets.advance(position)
            if self._is_idle() and self._offsets.commit_point() != self._committed:
                self._wake.set()

    async def hand_over(self) -> None:
        """Commit what is finished, and say that the lane closes in order. Bounded by its caller."""
        if self.state is LaneState.SERVING:
            if self._handover is None:
                self._handover = asyncio.get_running_loop().create_future()
            self._wake.set()
            await asyncio.shield(self._handover)

    # its life

    async def run(self) -> None:
        """Open, serve, and open again after being fenced, until the partition is lost.

        Raises LaneError or another ServiceError when the process must stop.
        """
        failures = 0
        try:
            while True:
                served = await self._live()
                failures = 0 if served else failures + 1
                # jittered, so that two processes that both believe in an id do not fence each other in step
                await asyncio.sleep(self._heartbeat_seconds() + random.random() * BACKOFF.ceiling(failures + 1))  # noqa: S311
                if not self._parts.host.is_assigned(self.partition):
                    return
        finally:
            self.state = LaneState.CLOSED
            self._parts.host.changed()

    async def _live(self) -> bool:
        """One ownership; whether it got as far as serving. Ends by being fenced, or by a broker failure on opening."""
        self.state = LaneState.OPENING
        served = False
        try:
            opened = await self._opened()
            self._offsets, self._committed = OffsetMap(opened.point), opened.point
            self._caution = Caution(opened.suspicion)
            self._parts.slices.open(self.partition.partition, opened.slice)
            try:
                self._parts.host.begin(self.partition, opened.point.offset)
                served, self._hopeless, self._is_clean = True, 0, False
                await self._serve()
            finally:
                self._parts.slices.close(self.partition.partition, opened.slice)
        except BaseExceptionGroup as group:
            ended, rest = group.split((FencedError, StalledError))
            if rest is not None or ended is None:
                raise
            log.warning("lane_ended %d: %s", self.partition.partition, ended.exceptions[0])
            self._note_stall(ended.exceptions[0])
        except (FencedError, StalledError) as error:
            log.warning("lane_ended %d: %s", self.partition.partition, error)
            self._note_stall(error)
        except (KafkaError, DoubtfulError) as error:
            passes = error.retriable if isinstance(error, DoubtfulError) else may_pass(error)
            self._hopeless = 0 if passes else self._hopeless + 1
            if self._hopeless >= HOPELESS_AFTER:
                raise LaneError(f"lane {self.partition.partition} cannot open: {error!r}") from error
            log.warning("lane_opening_again %d: %r", self.partition.partition, error)
        finally:
            await self._let_go()
        return served

    async def _opened(self) -> Opened:
        settings, loop = self._parts.settings, asyncio.get_running_loop()
        # what the last owner left open has to time out first, perhaps on each of the ways that opening takes
        limit_seconds = settings.commit_stall_seconds + 3 * settings.transaction_timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_seconds) as scope:
                return await self._parts.opens(
                    self.partition, self._commits, lambda: scope.reschedule(loop.time() + limit_seconds)
                )
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise StalledError(f"opening it has not got on for {limit_seconds:g} s") from error

    def _note_stall(self, error: BaseException) -> None:
        self._stalls += isinstance(error, StalledError)
        if self._stalls > 1:
            raise LaneError(f"lane {self.partition.partition}: {error}; see to the brokers, then start again")

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as events:
            self._events, self.state = events, LaneState.SERVING
            self.generation += 1
            self._parts.host.changed()
            try:
                while True:
                    await self._until_due()
                    await self._commit_some()
                    self._pump()
            finally:
                # from here on the group takes no tasks: records that come now are thrown away
                self._events, self.state = None, LaneState.OPENING

    async def _let_go(self) -> None:
        for decided in (*self._committing, *self._ready):
            decided.dropped()
        self._committing, self._held, self._trial = [], False, []
        self._ready.clear()
        self._backlog.clear()
        if self._handover is not None and not self._handover.done():
            self._handover.set_result(None)  # there is nothing left to hand over
        self._handover = None
        await self._commits.stop()

    # records in

    def _pump(self) -> None:
        if self._events is None:
            return
        if self._pumping is not None:
            self._pumping.cancel()  # one at a time: this is it
        begun, allows = 0, self._caution.allows
        while self._backlog and self._has_room() and allows(self._backlog[0].offset, self._offsets.unsettled):
            if begun == _BEGUN_AT_ONCE:
                self._pumping = asyncio.get_running_loop().call_soon(self._pump)
                return
            begun += 1
            record = self._backlog.popleft()
            if not self._offsets.give(record.offset):
                continue
            if self._caution.suspicion.is_condemned(record.offset):
                self._events.create_task(self._settle(self._parts.work.condemn(record)))
            elif self._caution.suspicion.is_suspect(record.offset):
                self._caution.is_trying = True
                self._events.create_task(self._try(self._events, self._company_of(record)))
            else:
                self._events.create_task(self._settle(self._parts.work.settle(record)))
        if not self._backlog:
            self._parts.host.changed()

    def _has_room(self) -> bool:
        return self._offsets.unsettled < self._parts.settings.lane_in_flight and self._offsets.has_room()

    def _company_of(self, first: Record) -> list[Record]:
        suspects, may_join = [first], self._caution.may_join
        while self._backlog and self._has_room() and may_join(self._backlog[0].offset, first.offset, len(suspects)):
            record = self._backlog.popleft()
            if self._offsets.give(record.offset):
                suspects.append(record)
        return suspects

    async def _try(self, events: asyncio.TaskGroup, suspects: list[Record]) -> None:
        """Work on suspects while no other lane of the process does: a death must not tell on an innocent event."""
        async with self._parts.trials:
            self._trial = suspects
            self._wake.set()
            while self._trial:  # until a commit names them
                await self._progress()
            for suspect in suspects:
                events.create_task(self._settle(self._parts.work.settle(suspect)))
            while self._committed.offset <= suspects[-1].offset:
                await self._progress()
            self._caution.is_trying = False
        self._pump()

    async def _progress(self) -> None:
        self._has_committed.clear()
        await self._has_committed.wait()

    async def _settle(self, work: Awaitable[Decided]) -> None:
        self._ready.append(await work)
        self._wake.set()

    # outcomes out

    async def _until_due(self) -> None:
        """Until a commit is worth its while: enough outcomes, the oldest has waited enough, or none may wait."""
        while not (self._ready or self._handover or self._trial or self._is_idle_behind() or self._has_more_to_say()):
            self._wake.clear()
            await self._wake.wait()
        settings, loop = self._parts.settings, asyncio.get_running_loop()
        due = loop.time() + settings.commit_interval_ms / 1000
        while self._ready and len(self._ready) < settings.commit_batch and not (self._handover or self._is_tried()):
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _commit_some(self) -> None:
        writes = await self._write_out()
        handover = self._handover
        clean = handover is not None and not self._ready
        for decided in self._committing:
            self._offsets.settle(decided.offset)
        point, trial = self._offsets.commit_point(), self._trial
        suspicion = self._caution.suspicion.past(point.offset)
        self._caution.suspicion = suspicion.trying(trial[0].offset, trial[-1].offset) if trial else suspicion
        await self._commit([write for group in writes for write in group], point, clean=clean)
        self._committed, self._stalls, self._is_clean = point, 0, clean
        self._trial = [] if trial else self._trial
        self._has_committed.set()
        done, self._committing = self._committing, []
        for decided, its_writes in zip(done, writes, strict=True):
            decided.confirmed(its_writes)
        if clean and handover is not None:
            self._handover = None
            if not handover.done():
                handover.set_result(None)

    async def _commit(self, writes: list[Write], point: CommitPoint, *, clean: bool) -> None:
        stall_seconds = self._parts.settings.commit_stall_seconds
        try:
            async with asyncio.timeout(stall_seconds) as scope:
                await self._commits.commit(writes, point, clean=clean, suspicion=self._caution.suspicion)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise StalledError(f"nothing could be committed for {stall_seconds:g} s") from error

    async def _write_out(self) -> list[list[Write]]:
        settings, size_bytes = self._parts.settings, 0
        writes: list[list[Write]] = []
        while self._ready and len(writes) < settings.commit_batch and size_bytes < _COMMIT_BYTES:
            decided = self._ready.popleft()
            self._committing.append(decided)
            moment = Moment(utc_now(), asyncio.get_running_loop().time() - decided.since)
            writes.append(decided.writes(settings.topics, moment, self._parts.limit_bytes))
            size_bytes += sum(len(write.value or b"") for write in writes[-1])
            if len(writes) % _BREATHER == 0:
                await asyncio.sleep(0)
        return writes

    def _has_more_to_say(self) -> bool:
        """The last word was that it closes, and the partition was kept after all; or money is waited for."""
        return not self._held and (self._is_clean or self._commits.is_due())

    def _is_tried(self) -> bool:
        """Whether all that is on trial has its outcome, and nothing more can come."""
        return self._caution.is_trying and len(self._ready) == self._offsets.unsettled

    def _is_idle(self) -> bool:
        return not self._offsets.unsettled and not self._ready

    def _is_idle_behind(self) -> bool:
        return self._is_idle() and self._offsets.commit_point() != self._committed

    def _heartbeat_seconds(self) -> float:
        return self._parts.settings.heartbeat_interval_ms / 1000
