"""Keeps one child process alive: restarts it with back-off, replaces it when it has grown too large."""

import asyncio
import logging
import random
import time
from types import TracebackType
from typing import Any, Literal, Self

from consumer.errors import ReasonedError, TransientError
from consumer.workers.memory import available_bytes
from consumer.workers.worker import Worker, WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

State = Literal["starting", "ready", "backing_off", "stopped"]

BACK_OFF_BASE_SECONDS = 0.5
BACK_OFF_CAP_SECONDS = 30.0

WARM_REPLIES = 20
"""After so many a child is as large as its work makes it; what it grows from there is a leak."""
ROOM_FOR_TWO = 1.5
"""A successor is warmed beside its predecessor where the machine has so many times the old one's memory to spare."""

log = logging.getLogger(__name__)


def back_off_seconds(failures: int, share: float) -> float:
    """None after a child that had served; else full jitter: a ``share`` (0 to 1, drawn evenly) of a span that doubles
    with each failure in a row.
    """
    return share * min(BACK_OFF_CAP_SECONDS, BACK_OFF_BASE_SECONDS * (2.0 ** min(failures - 1, 16) - 1))


class Supervisor:
    """A child that is always there again soon. ``in_flight`` requests at a time; callers queue in order.

    ``init`` goes to the child's ``setup`` at each start; its info dict comes back from ``start`` and ``ready``.
    A child above ``max_rss_bytes`` or ``max_requests`` is given no more and replaced. One that has grown by
    ``max_rss_growth_bytes`` (0: never mind) serves on until its successor is warm, where memory allows and
    ``warm_first`` is set. Nothing in flight is lost by either.
    """

    def __init__(
        self,
        module: str,
        init: dict[str, Any],
        *,
        name: str,
        start_timeout_seconds: float,
        max_rss_bytes: int | None = None,
        max_requests: int | None = None,
        max_rss_growth_bytes: int = 0,
        in_flight: int = 1,
    ) -> None:
        self.init = init
        """What the next child is given; may be changed once the first has told what it found."""
        self.warm_first = True
        """Whether two children may hold their models at once; not on a GPU, whose memory is not ours to count."""
        self._name = name
        self._module = module
        self._start_timeout_seconds = start_timeout_seconds
        self._in_flight = in_flight
        self._starts = 0
        self._worker = self._new_worker()
        self._retiring: Worker | None = None
        """A predecessor that still has requests to answer."""
        self._max_rss_bytes = max_rss_bytes
        self._max_requests = max_requests
        self._max_rss_growth_bytes = max_rss_growth_bytes
        self._state: State = "stopped"
        self._info: dict[str, Any] = {}
        self._turn = asyncio.Semaphore(in_flight)
        self._known = asyncio.Event()
        """Set once the fate of the latest child is known: it is ready, its restart failed, or all is stopped."""
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure = ""
        self._restart_failed = False
        self._retry_at = 0.0
        self._replacement_due = asyncio.Event()
        self._served = 0
        self._warm_rss_bytes = 0
        self._last_reply_at: float | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    @property
    def restarts(self) -> int:
        """How often a child took a predecessor's place, or tried to."""
        return max(0, self._starts - 1)

    @property
    def last_reply_at(self) -> float | None:
        """time.monotonic() of the last good reply; its age is the child's health."""
        return self._last_reply_at

    async def start(self) -> dict[str, Any]:
        """Start the child; its info dict. Raises ReasonedError if this first start fails: nothing is left behind."""
        self._state = "starting"
        try:
            self._starts += 1
            self._info = await self._worker.start()
        except BaseException:
            self._state = "stopped"
            raise
        self._up()
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._name} keeper")
        return self._info

    async def ready(self) -> dict[str, Any]:
        """The info dict of the child that is up, waiting for a restart under way. Raises TransientError as request."""
        await self._known.wait()
        if self._state != "ready":
            wait_seconds = max(0.0, self._retry_at - time.monotonic())
            detail = f"{self._name} is {self._state.replace('_', ' ')}: {self._failure}"
            raise TransientError(Reason.ENGINE_FAILED, detail, retry_after_seconds=wait_seconds)
        return self._info

    async def request(
        self, header: dict[str, Any], payload: bytes = b"", *, timeout_seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        """Have the child answer; the time-out counts from when the child can begin with the request.

        Raises WorkerDiedError (a TransientError) if the child died or had to be killed over this request,
        WorkerFaultError (a TransientError) if its handler raised something unforeseen, the handler's own
        ReasonedError, or TransientError(engine_failed) at once while restarts fail or after ``stop``.
        """
        async with self._turn:
            await self.ready()
            worker = self._worker
            try:
                reply = await worker.request(header, payload, timeout_seconds=timeout_seconds)
            except WorkerDiedError:
                self._down(worker)
                raise
            except WorkerFaultError:
                raise
            except ReasonedError:
                self._replied(worker)  # the child did its work and knows what is wrong with the request
                raise
            self._replied(worker)
            return reply

    async def stop(self) -> None:
        """End the child and all waiting requests; idempotent."""
        self._state = "stopped"  # nothing new from here on
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        self._state, self._failure = "stopped", "it was told to stop"
        self._known.set()
        for worker in (self._retiring, self._worker):
            if worker is not None:
                await worker.stop()
        self._retiring = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await self.stop()

    def _new_worker(self) -> Worker:
        return Worker(
            self._module,
            self.init,
            name=self._name,
            start_timeout_seconds=self._start_timeout_seconds,
            in_flight=self._in_flight,
        )

    def _up(self) -> None:
        self._state, self._served, self._warm_rss_bytes, self._restart_failed = "ready", 0, 0, False
        self._replacement_due.clear()
        self._known.set()

    def _down(self, worker: Worker) -> None:
        # a request learns of a death before the keeper does; the next request must not run into the same corpse
        if self._state == "ready" and worker is self._worker:
            self._state = "backing_off"
            self._known.clear()

    async def _keep(self) -> None:
        """Bring the child back whenever it is gone, and replace it whenever that is due."""
        try:
            while True:
                await self._until_gone_or_due()
                if self._replacement_due.is_set():
                    await self._replace()
                else:
                    await self._bring_back()
        finally:
            self._state = "stopped"
            self._known.set()  # nobody waits for a child that nobody brings back

    async def _until_gone_or_due(self) -> None:
        waits = [asyncio.create_task(self._worker.wait_ended()), asyncio.create_task(self._replacement_due.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _bring_back(self) -> None:
        end = await self._worker.wait_ended()
        if not self._restart_failed:
            self._failure = end  # else the restart failed, and its own error says more
        self._down(self._worker)
        self._failures += 1
        await self._back_off()
        await self._start_again()

    async def _replace(self) -> None:
        """Put a new child in the place of one that lives; what the old one was given, it answers."""
        self._replacement_due.clear()
        old = self._worker
        if self._state == "ready" and self.warm_first and available_bytes() > ROOM_FOR_TWO * old.rss_bytes():
            await self._warm_beside(old)
            return
        self._down(old)
        await old.idle()
        await old.stop()
        await self._start_again()

    async def _warm_beside(self, old: Worker) -> None:
        fresh = self._new_worker()
        try:
            self._starts += 1
            info = await fresh.start()
        except (ReasonedError, OSError) as error:
            log.warning("worker successor failed name=%s: %s; the old one serves on", self._name, error)
            self._warm_rss_bytes = old.rss_bytes()  # it may grow by as much again before the next try
            return
        self._retiring, self._worker, self._info = old, fresh, info
        self._up()
        await old.idle()
        await old.stop()
        self._retiring = None

    async def _start_again(self) -> None:
        self._state = "starting"
        self._worker = self._new_worker()
        try:
            self._starts += 1
            self._info = await self._worker.start()
        except (ReasonedError, OSError) as error:
            self._failure, self._restart_failed = str(error), True
            self._state = "backing_off"
            self._known.set()  # whoever waits is told at once rather than held through a row of failures
            log.warning("worker restart failed name=%s: %s", self._name, error)
            return
        log.info("worker restarted name=%s restarts=%d", self._name, self.restarts)
        self._up()

    async def _back_off(self) -> None:
        delay = back_off_seconds(self._failures, random.random())  # noqa: S311 (jitter)
        self._retry_at = time.monotonic() + delay
        log.warning("worker down name=%s: %s; restart in %.1f s", self._name, self._failure, delay)
        await asyncio.sleep(delay)

    def _replied(self, worker: Worker) -> None:
        self._last_reply_at = time.monotonic()
        if worker is not self._worker:
            return
        self._failures = 0
        self._served += 1
        rss_bytes = worker.rss_bytes() if self._max_rss_bytes or self._max_rss_growth_bytes else 0
        if self._served == WARM_REPLIES and not self._warm_rss_bytes:
            self._warm_rss_bytes = rss_bytes
        too_many = self._max_requests is not None and self._served >= self._max_requests
        too_large = self._max_rss_bytes is not None and rss_bytes > self._max_rss_bytes
        grown = (
            self._warm_rss_bytes > 0
            and 0 < self._max_rss_growth_bytes < rss_bytes - self._warm_rss_bytes
            and not self._replacement_due.is_set()
        )
        if too_many or too_large:
            self._down(worker)
        if (too_many or too_large or grown) and self._state != "stopped":
            log.info("worker recycled name=%s requests=%d rss_bytes=%d", self._name, self._served, rss_bytes)
            self._warm_rss_bytes = rss_bytes
            self._replacement_due.set()
