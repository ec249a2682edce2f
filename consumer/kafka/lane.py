"""A lane: everything that one input partition owns, from opening to close.

Records come in through ``offer``; each is carried by a task of its own; outcomes are committed together, in whatever
order they were reached. Its transactional id fences whoever owned the partition before: ownership rests on that, and
on nothing that a rebalance says.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.core.model import Record
from consumer.core.offsets import CommitPoint, OffsetMap
from consumer.core.suspicion import NO_SUSPICION, Caution
from consumer.errors import FencedError, LaneError
from consumer.kafka.client import may_pass
from consumer.kafka.commits import BACKOFF, HOPELESS_AFTER, LaneCommits
from consumer.kafka.lane_parts import Decided, LaneParts, LaneState, StalledError, is_out_of_memory, stalled_after
from consumer.kafka.opening import Opened
from consumer.kafka.outbox import Outbox
from consumer.kafka.parked import ParkedEvents
from consumer.kafka.transaction import DoubtfulError
from consumer.to_the_end import heed_cancellation

log = logging.getLogger(__name__)

_BEGUN_AT_ONCE = 8
"""Events that a lane begins before the event loop gets a turn."""
TRIAL_SECONDS = 60.0
"""Suspects that have lived for so long are no killers of the quick kind: the other lanes need not wait for them."""


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
        self.committed = CommitPoint(0)
        """While it serves: what of the partition is settled for good."""
        self._pumping: asyncio.Handle | None = None
        self._backlog: deque[Record] = deque()
        self._outbox = Outbox(parts)
        self._events: asyncio.TaskGroup | None = None
        self._caution = Caution()
        self._parked: ParkedEvents | None = None
        self._said = NO_SUSPICION
        """The suspicion as it is committed."""
        self._wake = asyncio.Event()
        self._has_committed = asyncio.Event()
        self._held = False
        self._is_clean = False
        """The last commit said that the lane closes in order."""
        self._is_at_rest = False
        """It serves, and the fate of every commit is known."""
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
        self._wake.set()  # parked events may be due; and a death from now on must be noticed again

    def reached(self, position: int) -> None:
        """The consumer stands here with nothing more to give: transaction markers may lie behind."""
        if self.state is LaneState.SERVING and not self._backlog:
            self._offsets.advance(position)
            if self._is_idle() and self._offsets.commit_point() != self.committed:
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
                heartbeat_seconds = self._parts.settings.heartbeat_interval_ms / 1000
                await asyncio.sleep(heartbeat_seconds + random.random() * BACKOFF.ceiling(failures + 1))  # noqa: S311
                if not self._parts.host.is_assigned(self.partition):
                    return
        finally:
            self.state = LaneState.CLOSED
            self._parts.host.changed()

    async def _live(self) -> bool:
        """One ownership; whether it got as far as serving. Ends by being fenced, or by a broker failure on opening."""
        self.state, served_before = LaneState.OPENING, self.generation
        try:
            await self._own()
        except BaseExceptionGroup as group:
            ended, rest = group.split((FencedError, StalledError))
            if rest is not None or ended is None:
                await self._say_last_word(group)
                raise
            self._note_end(ended.exceptions[0])
        except (FencedError, StalledError) as error:
            self._note_end(error)
        except (KafkaError, DoubtfulError) as error:
            passes = error.retriable if isinstance(error, DoubtfulError) else may_pass(error)
            self._hopeless = 0 if passes else self._hopeless + 1
            if self._hopeless >= HOPELESS_AFTER:
                raise LaneError(f"lane {self.partition.partition} cannot open: {error!r}") from error
            log.warning("lane_opening_again %d: %r", self.partition.partition, error)
        except BaseException as error:
            await self._say_last_word(error)
            raise
        finally:
            await self._let_go()
        return self.generation > served_before

    async def _own(self) -> None:
        opened = await self._opened()
        self._offsets, self.committed = OffsetMap(opened.point), opened.point
        self._caution, self._said = Caution(opened.suspicion), opened.suspicion
        self._parked = opened.parked
        self._parts.slices.open(self.partition.partition, opened.slice)
        try:
            self._parts.host.begin(self.partition, opened.point.offset)
            self._hopeless, self._is_clean, self._is_at_rest = 0, False, True
            await self._serve()
        finally:
            self._parts.slices.close(self.partition.partition, opened.slice)
            self._parked = None
            opened.parked.close()

    async def _opened(self) -> Opened:
        settings, loop = self._parts.settings, asyncio.get_running_loop()
        # what the last owner left open has to time out first, perhaps on each of the ways that opening takes
        limit_seconds = settings.commit_stall_seconds + 3 * settings.transaction_timeout_ms / 1000
        async with stalled_after(limit_seconds, "opening it has not got on") as scope:
            return await self._parts.opens(
                self.partition, self._commits, lambda: scope.reschedule(loop.time() + limit_seconds)
            )

    def _note_end(self, error: BaseException) -> None:
        log.warning("lane_ended %d: %s", self.partition.partition, error)
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
                    heed_cancellation()
                    self._pump()
            finally:
                # from here on the group takes no tasks: records that come now are thrown away
                self._events, self.state = None, LaneState.OPENING

    async def _say_last_word(self, error: BaseException) -> None:
        """The process ends this ownership by itself: that must not look like a death, and tell on what is on trial."""
        if self._is_at_rest and not self._is_clean and not is_out_of_memory(error):
            await self._commits.say_last_word(self._offsets.commit_point(), self._said.called_off())

    async def _let_go(self) -> None:
        self._outbox.drop()
        self._held = self._is_at_rest = False
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
        begun = 0
        while self._backlog and self._has_room() and self._caution.allows(self._offsets.unsettled):
            if begun == _BEGUN_AT_ONCE or self._parts.turns.crowded:
                self._pumping = asyncio.get_running_loop().call_soon(self._pump)
                return
            begun += 1
            record = self._backlog.popleft()
            if not self._offsets.give(record.offset):
                continue
            if self._caution.suspicion.is_condemned(record.offset):
                self._events.create_task(self._settle(self._parts.work.condemn, record))
            elif self._caution.suspicion.is_careful:
                self._caution.is_trying = True
                self._events.create_task(self._try(self._events, self._company_of(record)))
            else:
                self._events.create_task(self._settle(self._parts.work.settle, record))
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
        """Work on suspects while no other lane of the process tries any, named in a commit before: a death tells."""
        caution, first, last = self._caution, suspects[0].offset, suspects[-1].offset
        async with self._parts.trials:
            caution.suspicion = caution.suspicion.trying(first, last)
            await self._until(lambda: self._said is caution.suspicion and not self._is_clean)
            for suspect in suspects:
                events.create_task(self._settle(self._parts.work.settle, suspect))
            try:
                async with asyncio.timeout(TRIAL_SECONDS):
                    await self._until(lambda: self.committed.offset > last)
            except TimeoutError:
                caution.suspicion = NO_SUSPICION
                await self._until(lambda: self._said is caution.suspicion)
            caution.is_trying = False
        self._pump()

    async def _until(self, true: Callable[[], bool]) -> None:
        """Until commits have made it true."""
        while not true():
            self._wake.set()
            self._has_committed.clear()
            await self._has_committed.wait()

    async def _settle(self, decide: Callable[[Record], Awaitable[Decided]], record: Record) -> None:
        await self._parts.turns.time_left()  # it may be answered from memory there and then
        self._outbox.add(await decide(record))
        self._wake.set()

    # outcomes out

    async def _until_due(self) -> None:
        """Until a commit is worth its while: enough outcomes, the oldest has waited enough, or none may wait."""
        while not (self._outbox or self._handover or self._is_behind() or self._has_more_to_say()):
            self._wake.clear()
            if self._parked is not None and not self._held:
                if self._parked.any_due():
                    return
                self._parked.wake_when_due(self._wake.set)
            await self._wake.wait()
        settings, loop = self._parts.settings, asyncio.get_running_loop()
        due = loop.time() + settings.commit_interval_ms / 1000
        while 0 < len(self._outbox) < settings.commit_batch and not (self._handover or self._is_tried()):
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _commit_some(self) -> None:
        writes = await self._outbox.take()
        handover = self._handover
        clean = handover is not None and not self._outbox
        for offset in self._outbox.taken():
            self._offsets.settle(offset)
        point = self._offsets.commit_point()
        suspicion = self._caution.suspicion = self._caution.suspicion.past(point.offset)
        if self._parked is not None and not self._held:
            writes += self._parked.due()
        self._is_at_rest = False
        async with stalled_after(self._parts.settings.commit_stall_seconds, "nothing could be committed"):
            await self._commits.commit(writes, point, clean=clean, suspicion=suspicion)
        self._is_at_rest = True
        if self._parked is not None:
            self._parked.committed(writes)
        self.committed, self._said, self._stalls, self._is_clean = point, suspicion, 0, clean
        self._has_committed.set()
        await self._outbox.confirm()
        if clean and handover is not None:
            self._handover = None
            if not handover.done():
                handover.set_result(None)

    def _has_more_to_say(self) -> bool:
        """The last word was that it closes, and the partition was kept after all; or money is waited for."""
        return not self._held and (self._is_clean or self._commits.is_due())

    def _is_tried(self) -> bool:
        """Whether all that is on trial has its outcome, and nothing more can come."""
        return self._caution.is_trying and len(self._outbox) == self._offsets.unsettled

    def _is_idle(self) -> bool:
        return not self._offsets.unsettled and not self._outbox

    def _is_behind(self) -> bool:
        """Whether something is to be committed though no outcome is there."""
        return self._caution.suspicion is not self._said or (
            self._is_idle() and self._offsets.commit_point() != self.committed
        )
