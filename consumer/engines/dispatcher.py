"""The batcher's shell: submit a chunk and await what was heard; that many callers share a batch is invisible.

Each executor has a task for every batch that it may hold; a task takes what is due and has it run. Nothing polls: a
task sleeps until a chunk comes or the oldest chunk's time is up. Every future is resolved, whatever happens to the
batch. An executor that is busy is given a further batch only when enough waits to fill one: it has its next work at
hand then, and while little waits, chunks gather instead.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from consumer.core.batcher import Batch, Batcher, BatchLimits, Closed
from consumer.core.model import Urgency
from consumer.engines.executor import AWAY_SECONDS, Executor, another_is_freer, is_to_rest
from consumer.engines.served import BatchReport, Served
from consumer.engines.trials import Part, Trials
from consumer.errors import ReasonedError, TransientError
from consumer.workers.worker import WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

T = TypeVar("T")
R = TypeVar("R")

RunBatch = Callable[[int, list[T]], Awaitable[Sequence[R | ReasonedError]]]
"""Runs items on an executor; one answer each, in order. Raises WorkerDiedError if the executor died over them, another
TransientError if it cannot be had at all, anything else if it lives but failed."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Ticket(Generic[T, R]):
    item: T
    audio_seconds: float
    urgency: Urgency
    submitted: float
    future: asyncio.Future[Served[R]]
    begins: Callable[[], None]
    context: Context = field(default_factory=copy_context)

    @property
    def settled(self) -> bool:
        """Also true once the submitter was cancelled."""
        return self.future.done()

    def fail(self, error: ReasonedError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Dispatcher(Generic[T, R]):
    """Micro-batches what is submitted onto ``executors``, each of which holds up to ``in_flight`` batches.

    Bounded, critical first, oldest first.
    """

    def __init__(
        self,
        limits: BatchLimits,
        run_batch: RunBatch[T, R],
        *,
        executors: int = 1,
        in_flight: int = 1,
        probe: T | None = None,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[BatchReport[T]], None] = lambda _: None,
    ) -> None:
        """``probe``: an item that harms no executor; one that dies over it too is at fault itself."""
        self._batcher: Batcher[_Ticket[T, R]] = Batcher(limits, lambda ticket: ticket.settled)
        self._window_seconds = limits.window_seconds
        self._run_batch = run_batch
        self._executors = [Executor(number) for number in range(executors)]
        self._in_flight = in_flight
        self._probe = probe
        self._trials: Trials[_Ticket[T, R]] = Trials()
        self._clock = clock
        self._observe = observe
        self._changed = asyncio.Event()
        self._outside: tuple[deque[_Ticket[T, R]], deque[_Ticket[T, R]]] = (deque(), deque())
        """Critical and usual tickets for which the queue has no room yet."""
        self._open: set[_Ticket[T, R]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = True
        self.last_good_batch_at: float | None = None
        """On the clock; its age is the engine's health."""

    @property
    def queued_audio_seconds(self) -> float:
        return self._batcher.queued_audio_seconds

    @property
    def full(self) -> bool:
        """Submitting now would wait for room."""
        return self._batcher.full

    @property
    def pending(self) -> int:
        """Items submitted and not yet answered."""
        return len(self._open)

    def closed_batches(self) -> dict[Closed, int]:
        """How many batches were closed for each reason."""
        return dict(self._batcher.closed)

    def start(self) -> None:
        """Begin to serve; needs the running loop."""
        self._stopped = False
        for executor in self._executors * self._in_flight:
            task = asyncio.create_task(self._feed(executor), name=f"dispatcher executor {executor.number}")
            task.add_done_callback(self._feeding_ended)
            self._tasks.append(task)

    async def submit(
        self,
        item: T,
        audio_seconds: float,
        *,
        urgency: Urgency | None = None,
        begins: Callable[[], None] = lambda: None,
    ) -> Served[R]:
        """Await the item's answer; waits for room first while the queue is full. Cancelling drops the item.

        ``begins`` is called each time a batch with the item is run.

        Raises the item's own ReasonedError, RecordingError ``poison`` if it fails alone, TransientError
        ``engine_failed`` if no executor can be had or the dispatcher stops.
        """
        if self._stopped:
            raise _stopping()
        future: asyncio.Future[Served[R]] = asyncio.get_running_loop().create_future()
        ticket = _Ticket(item, audio_seconds, urgency or Urgency(), self._clock(), future, begins)
        self._open.add(ticket)
        self._outside[0 if ticket.urgency.critical else 1].append(ticket)
        self._admit()
        try:
            with ticket.urgency.listen(lambda: self._hurry(ticket)):
                return await future
        finally:
            self._open.discard(ticket)

    def _hurry(self, ticket: _Ticket[T, R]) -> None:
        critical, usual = self._outside
        if ticket in usual:
            usual.remove(ticket)
            critical.append(ticket)
        else:
            self._batcher.promote(ticket)
        self._changed.set()

    async def drain(self) -> None:
        """Serve all that was submitted, without waiting for company."""
        self._batcher.drain()
        self._changed.set()
        if self._open:
            await asyncio.wait([ticket.future for ticket in self._open])

    async def stop(self) -> None:
        """End now: every open submit raises TransientError."""
        self._stopped = True
        for ticket in list(self._open):
            ticket.fail(_stopping())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _admit(self) -> None:
        """Let waiting tickets into the queue while there is room, critical ones first."""
        for waiting in self._outside:
            while waiting and not self._batcher.full:
                ticket = waiting.popleft()
                if not ticket.settled:
                    critical = ticket.urgency.critical
                    self._batcher.add(ticket, ticket.audio_seconds, critical=critical, now=self._clock())
                    self._changed.set()

    async def _feed(self, executor: Executor) -> None:
        while True:
            batch = self._take(executor)
            self._admit()
            if batch is None:
                await self._until_due(executor)
                continue
            executor.batches += 1
            try:
                await self._serve(executor, batch.items, batch.closed)
            finally:
                executor.batches -= 1
                self._changed.set()

    def _take(self, executor: Executor) -> Batch[_Ticket[T, R]] | None:
        now = self._clock()
        if is_to_rest(executor, self._executors, now):
            return None
        if executor.batches and (not self._batcher.saturated or another_is_freer(executor, self._executors, now)):
            return None
        batch = self._batcher.take(now)
        if batch is not None:
            self._changed.set()  # what is left may be for the others
        return batch

    async def _until_due(self, executor: Executor) -> None:
        self._changed.clear()
        now = self._clock()
        due = None if executor.batches else self._batcher.next_due(now)
        if due is not None and is_to_rest(executor, self._executors, now):
            due = max(due, executor.away_until)
        try:
            async with asyncio.timeout(None if due is None else due - now):
                await self._changed.wait()
        except TimeoutError:
            return  # the oldest chunk has waited long enough

    async def _serve(self, executor: Executor, tickets: list[_Ticket[T, R]], closed: Closed | None) -> None:
        """Run a batch; what fails is run again in parts until what is at fault is alone."""
        todo = [Part(tickets)]
        while todo:
            part = todo.pop()
            members = [ticket for ticket in part.members if not ticket.settled]
            if members:
                part = replace(part, members=members)
                async with executor.use(alone=part.suspect):
                    more = await self._attempt(executor, part, closed)
                todo += reversed(more)
            closed = None

    async def _attempt(
        self, executor: Executor, part: Part[_Ticket[T, R]], closed: Closed | None
    ) -> list[Part[_Ticket[T, R]]]:
        """Run tickets together and settle them; or the parts to run instead, in order."""
        tickets, given = part.members, self._clock()
        for ticket in tickets:
            ticket.begins()
        try:
            answers = await self._run(executor, tickets, closed)
            if len(answers) != len(tickets):
                raise RuntimeError(f"{len(answers)} answers for {len(tickets)} items: this is a bug")  # noqa: TRY301
        except WorkerDiedError as error:
            if (sick := await self._dies_anyhow(executor)) is None:
                return self._trials.after_death(part, error)
            if not self._hand_on(executor, tickets, AWAY_SECONDS):
                self._give_up(sick)
            return []
        except WorkerFaultError as error:
            return self._trials.after_fault(part, error.detail)
        except TransientError as error:
            if self._hand_on(executor, tickets, max(AWAY_SECONDS, error.retry_after_seconds or 0.0)):
                return []
            for ticket in tickets:  # each its own: an error that several callers raise gathers all their tracebacks
                ticket.fail(TransientError(error.reason, error.detail, retry_after_seconds=error.retry_after_seconds))
            return []
        except ReasonedError as error:
            return self._trials.after_fault(part, error.detail, verdict=error)
        except Exception as error:  # noqa: BLE001 (whatever it is, no future may be left open)
            return self._trials.after_fault(part, repr(error))
        # a batch that was given ahead began when the one before it was done
        started = max(given, executor.finished_at)
        self._settle(tickets, answers, started, closed)
        executor.finished_at = self._clock()
        return []

    async def _run(
        self, executor: Executor, tickets: list[_Ticket[T, R]], closed: Closed | None
    ) -> Sequence[R | ReasonedError]:
        given = self._clock()
        try:
            return await self._run_batch(executor.number, [ticket.item for ticket in tickets])
        except Exception as error:
            began = max(given, executor.finished_at)
            self._report(tickets, closed, self._clock() - began, type(error).__qualname__)
            raise

    async def _dies_anyhow(self, executor: Executor) -> Exception | None:
        """What an executor that has died says to an item that harms none; None: it lives."""
        failure: Exception | None = None
        for _ in range(2 if self._probe is not None else 0):
            try:
                await self._run_batch(executor.number, [self._probe])  # type: ignore[list-item]
            except Exception as error:  # noqa: BLE001 (whatever it is, no chunk is to blame)
                failure = error
                if not isinstance(error, WorkerDiedError) or error.lost_requests == 1:
                    break
            else:
                return None
        return failure

    def _hand_on(self, executor: Executor, tickets: list[_Ticket[T, R]], seconds: float) -> bool:
        """Leave an executor alone for a while, its tickets to others; False if no other one can be had either."""
        now = self._clock()
        executor.away_until = now + seconds
        self._changed.set()
        if not is_to_rest(executor, self._executors, now):
            return False
        for ticket in tickets:
            self._batcher.add(ticket, ticket.audio_seconds, critical=ticket.urgency.critical, now=now)
        return True

    def _give_up(self, sick: Exception) -> None:
        """No chunk is at fault: all that wait are told at once, so that they may go elsewhere."""
        log.error("engine sick: it fails over a probe too: %s", sick)
        for ticket in list(self._open):
            ticket.fail(TransientError(Reason.ENGINE_FAILED, f"the engine fails over whatever it is given: {sick}"))

    def _settle(
        self,
        tickets: list[_Ticket[T, R]],
        answers: Sequence[R | ReasonedError],
        started: float,
        closed: Closed | None,
    ) -> None:
        finished = self.last_good_batch_at = self._clock()
        self._trials.acquitted()
        audio_seconds = sum(ticket.audio_seconds for ticket in tickets)
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, ReasonedError):
                ticket.fail(answer)
            elif not ticket.settled:
                share = (finished - started) * ticket.audio_seconds / audio_seconds if audio_seconds else 0.0
                ticket.future.set_result(Served(answer, ticket.submitted, started, finished, share))
        self._report(tickets, closed, finished - started)

    def _report(
        self, tickets: list[_Ticket[T, R]], closed: Closed | None, seconds: float, failed: str | None = None
    ) -> None:
        items, contexts = [ticket.item for ticket in tickets], [ticket.context for ticket in tickets]
        audio_seconds = sum(ticket.audio_seconds for ticket in tickets)
        padded_seconds = len(items) * max(self._window_seconds or ticket.audio_seconds for ticket in tickets)
        self._observe(
            BatchReport(items, closed, audio_seconds, padded_seconds, seconds, contexts, len(self._executors), failed)
        )

    def _feeding_ended(self, task: asyncio.Task[None]) -> None:
        """Feeding ends by ``stop`` alone; should it ever fail, nobody may wait for it in vain."""
        if self._stopped:
            return
        error = asyncio.CancelledError("nobody asked for it") if task.cancelled() else task.exception()
        self._stopped = True
        log.error("dispatcher failed", exc_info=error)
        for ticket in list(self._open):
            ticket.fail(TransientError(Reason.ENGINE_FAILED, f"the dispatcher failed, this is a bug: {error!r}"))


def _stopping() -> TransientError:
    return TransientError(Reason.ENGINE_FAILED, "the engine is stopping; another process will serve this event")
