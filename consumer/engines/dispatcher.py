"""The batcher's shell: submit a chunk and await what was heard; that many callers share a batch is invisible.

One task for each slot takes what is due and has it run. Nothing polls: a slot sleeps until a chunk comes or the
oldest chunk's time is up. Every future is resolved, whatever happens to the batch.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from consumer.core.batcher import Batcher, BatchLimits, Closed
from consumer.errors import ReasonedError, RecordingError, TransientError
from consumer.workers.worker import WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

T = TypeVar("T")
R = TypeVar("R")

RunBatch = Callable[[int, list[T]], Awaitable[Sequence[R | ReasonedError]]]
"""Runs items on a slot; one answer each, in order. Raises WorkerDiedError if the executor died over them, another
TransientError if it cannot be had at all, anything else if it lives but failed."""

DEATHS_ALONE = 2
"""An item over which the executor died so often while it was alone is poison: once may be somebody else's kill."""

CONDEMNED_IN_A_ROW = 3
"""So many verdicts of poison with no good batch between them, and it is the engine that is suspected."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served(Generic[R]):
    """An answer and its times, on the dispatcher's clock."""

    value: R
    submitted: float
    started: float
    """When the batch that brought the answer began."""
    finished: float
    engine_seconds: float
    """Its share of the batch's run, by audio."""


@dataclass(frozen=True, slots=True)
class BatchReport(Generic[T]):
    """A batch that went through; ``closed`` is None for a part of a batch that had failed as a whole."""

    items: list[T]
    closed: Closed | None
    audio_seconds: float
    padded_seconds: float
    """What the model computed: every item as long as the longest, or a full window each."""
    seconds: float


@dataclass(slots=True, eq=False)
class _Ticket(Generic[T, R]):
    item: T
    audio_seconds: float
    critical: bool
    submitted: float
    future: asyncio.Future[Served[R]]
    begins: Callable[[], None]

    @property
    def settled(self) -> bool:
        """Also true once the submitter was cancelled."""
        return self.future.done()

    def fail(self, error: ReasonedError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Part = tuple[list[_Ticket[T, R]], int]
"""Tickets to run together, and how often the executor died over just these."""


class Dispatcher(Generic[T, R]):
    """Micro-batches what is submitted onto ``slots`` executors; bounded, critical first, oldest first."""

    def __init__(
        self,
        limits: BatchLimits,
        run_batch: RunBatch[T, R],
        *,
        slots: int = 1,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[BatchReport[T]], None] = lambda _: None,
    ) -> None:
        self._batcher: Batcher[_Ticket[T, R]] = Batcher(limits, lambda ticket: ticket.settled)
        self._window_seconds = limits.window_seconds
        self._run_batch = run_batch
        self._slots = slots
        self._clock = clock
        self._observe = observe
        self._changed = asyncio.Event()
        self._outside: tuple[deque[_Ticket[T, R]], deque[_Ticket[T, R]]] = (deque(), deque())
        """Critical and usual tickets for which the queue has no room yet."""
        self._open: set[_Ticket[T, R]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = True
        self._condemned = 0
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
        for slot in range(self._slots):
            task = asyncio.create_task(self._serve_slot(slot), name=f"dispatcher slot {slot}")
            task.add_done_callback(self._slot_ended)
            self._tasks.append(task)

    async def submit(
        self, item: T, audio_seconds: float, *, critical: bool = False, begins: Callable[[], None] = lambda: None
    ) -> Served[R]:
        """Await the item's answer; waits for room first while the queue is full. Cancelling drops the item.

        ``begins`` is called each time a batch with the item is run.
        Raises the item's own ReasonedError, RecordingError ``poison`` if it fails alone, TransientError
        ``engine_failed`` if no executor can be had or the dispatcher stops.
        """
        if self._stopped:
            raise _stopping()
        future: asyncio.Future[Served[R]] = asyncio.get_running_loop().create_future()
        ticket = _Ticket(item, audio_seconds, critical, self._clock(), future, begins)
        self._open.add(ticket)
        self._outside[0 if critical else 1].append(ticket)
        self._admit()
        try:
            return await future
        finally:
            self._open.discard(ticket)

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
                    self._batcher.add(ticket, ticket.audio_seconds, critical=ticket.critical, now=self._clock())
                    self._changed.set()

    async def _serve_slot(self, slot: int) -> None:
        while True:
            batch = self._batcher.take(self._clock())
            self._admit()
            if batch is None:
                await self._until_due()
                continue
            await self._serve(slot, batch.items, batch.closed)

    async def _until_due(self) -> None:
        self._changed.clear()
        due = self._batcher.next_due(self._clock())
        try:
            async with asyncio.timeout(None if due is None else due - self._clock()):
                await self._changed.wait()
        except TimeoutError:
            return  # the oldest chunk has waited long enough

    async def _serve(self, slot: int, tickets: list[_Ticket[T, R]], closed: Closed | None) -> None:
        """Run a batch; what fails is run again in halves until what is at fault is alone."""
        todo: list[_Part[T, R]] = [(tickets, 0)]
        while todo:
            part, deaths = todo.pop()
            part = [ticket for ticket in part if not ticket.settled]
            if part:
                todo += reversed(await self._attempt(slot, part, deaths, closed))
            closed = None

    async def _attempt(
        self, slot: int, tickets: list[_Ticket[T, R]], deaths: int, closed: Closed | None
    ) -> list[_Part[T, R]]:
        """Run tickets together and settle them; or the parts to run instead, in order."""
        started = self._clock()
        for ticket in tickets:
            ticket.begins()
        try:
            answers = await self._run_batch(slot, [ticket.item for ticket in tickets])
            if len(answers) != len(tickets):
                raise RuntimeError(f"{len(answers)} answers for {len(tickets)} items: this is a bug")  # noqa: TRY301
        except WorkerDiedError as error:
            return self._after_death(tickets, deaths + 1, error)
        except WorkerFaultError as error:
            return self._after_fault(tickets, error.detail)
        except TransientError as error:
            for ticket in tickets:  # each its own: an error that several callers raise gathers all their tracebacks
                ticket.fail(TransientError(error.reason, error.detail, retry_after_seconds=error.retry_after_seconds))
            return []
        except ReasonedError as error:
            return self._after_fault(tickets, error.detail, verdict=error)
        except Exception as error:  # noqa: BLE001 (whatever it is, no future may be left open)
            return self._after_fault(tickets, repr(error))
        self._settle(tickets, answers, started, closed)
        return []

    def _after_death(self, tickets: list[_Ticket[T, R]], deaths: int, error: WorkerDiedError) -> list[_Part[T, R]]:
        log.warning("batch lost items=%d: %s", len(tickets), error.detail)
        if len(tickets) > 1:
            return _halves(tickets)
        if deaths < DEATHS_ALONE:
            return [(tickets, deaths)]
        tickets[0].fail(self._condemn(f"the engine died {deaths} times over this chunk alone: {error.detail}"))
        return []

    def _after_fault(
        self, tickets: list[_Ticket[T, R]], detail: str, verdict: ReasonedError | None = None
    ) -> list[_Part[T, R]]:
        log.warning("batch failed items=%d: %s", len(tickets), detail)
        if len(tickets) > 1:
            return _halves(tickets)
        tickets[0].fail(verdict or self._condemn(f"the engine failed over this chunk alone: {detail}"))
        return []

    def _condemn(self, detail: str) -> ReasonedError:
        """Poison; unless so much was poison lately that no recording should be blamed for good."""
        self._condemned += 1
        if self._condemned > CONDEMNED_IN_A_ROW:
            return TransientError(
                Reason.ENGINE_FAILED, f"{self._condemned} chunks failed in a row, each alone; {detail}"
            )
        return RecordingError(Reason.POISON, f"{detail}; listen to the recording or leave it out")

    def _settle(
        self,
        tickets: list[_Ticket[T, R]],
        answers: Sequence[R | ReasonedError],
        started: float,
        closed: Closed | None,
    ) -> None:
        finished = self._clock()
        self.last_good_batch_at = finished
        self._condemned = 0
        audio_seconds = sum(ticket.audio_seconds for ticket in tickets)
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, ReasonedError):
                ticket.fail(answer)
            elif not ticket.settled:
                share = (finished - started) * ticket.audio_seconds / audio_seconds if audio_seconds else 0.0
                ticket.future.set_result(Served(answer, ticket.submitted, started, finished, share))
        items = [ticket.item for ticket in tickets]
        padded_seconds = len(items) * max(self._window_seconds or ticket.audio_seconds for ticket in tickets)
        self._observe(BatchReport(items, closed, audio_seconds, padded_seconds, finished - started))

    def _slot_ended(self, task: asyncio.Task[None]) -> None:
        """A slot ends by ``stop`` alone; should it ever fail, nobody may wait for it in vain."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._stopped = True
        log.error("dispatcher slot failed", exc_info=error)
        for ticket in list(self._open):
            ticket.fail(TransientError(Reason.ENGINE_FAILED, f"the dispatcher failed, this is a bug: {error!r}"))


def _halves(tickets: list[_Ticket[T, R]]) -> list[_Part[T, R]]:
    middle = len(tickets) // 2
    return [(tickets[:middle], 0), (tickets[middle:], 0)]


def _stopping() -> TransientError:
    return TransientError(Reason.ENGINE_FAILED, "the engine is stopping; another process will serve this event")
