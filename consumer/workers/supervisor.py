"""Keeps one child process alive: restarts it with back-off, replaces it when it has grown too large."""

import asyncio
import logging
import random
import time
from types import TracebackType
from typing import Any, Literal, Self

from consumer.errors import ReasonedError, TransientError
from consumer.workers.worker import Worker, WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

State = Literal["starting", "ready", "backing_off", "stopped"]

BACK_OFF_BASE_SECONDS = 0.5
BACK_OFF_CAP_SECONDS = 30.0

log = logging.getLogger(__name__)


def back_off_seconds(failures: int, share: float) -> float:
    """Full jitter: a ``share`` (0 to 1, drawn evenly) of a span that doubles with each failure in a row."""
    return share * min(BACK_OFF_CAP_SECONDS, BACK_OFF_BASE_SECONDS * 2.0 ** min(failures - 1, 16))


class Supervisor:
    """A child that is always there again soon. One request at a time; callers queue in order.

    ``init`` goes to the child's ``setup`` at each start; its info dict comes back from ``start`` and ``ready``.
    A child above ``max_rss_bytes`` or ``max_requests`` is replaced between two requests.
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
    ) -> None:
        self._name = name
        self._worker = Worker(module, init, name=name, start_timeout_seconds=start_timeout_seconds)
        self._max_rss_bytes = max_rss_bytes
        self._max_requests = max_requests
        self._state: State = "stopped"
        self._info: dict[str, Any] = {}
        self._turn = asyncio.Lock()
        self._known = asyncio.Event()
        """Set once the fate of the latest child is known: it is ready, its restart failed, or all is stopped."""
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure = ""
        self._restart_failed = False
        self._retry_at = 0.0
        self._recycling = False
        self._served = 0
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
        return max(0, self._worker.generation - 1)

    @property
    def last_reply_at(self) -> float | None:
        """time.monotonic() of the last good reply; its age is the child's health."""
        return self._last_reply_at

    async def start(self) -> dict[str, Any]:
        """Start the child; its info dict. Raises ReasonedError if this first start fails: nothing is left behind."""
        self._state = "starting"
        try:
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
        """Have the child answer; the time-out counts from when the child is given the request.

        Raises WorkerDiedError (a TransientError) if the child died or had to be killed over this request,
        WorkerFaultError (a TransientError) if its handler raised something unforeseen, the handler's own
        ReasonedError, or TransientError(engine_failed) at once while restarts fail or after ``stop``.
        """
        async with self._turn:
            await self.ready()
            generation = self._worker.generation
            try:
                reply = await self._worker.request(header, payload, timeout_seconds=timeout_seconds)
            except WorkerDiedError:
                self._down(generation)
                raise
            except WorkerFaultError:
                raise
            except ReasonedError:
                self._replied()  # the child did its work and knows what is wrong with the request
                raise
            self._replied()
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
        await self._worker.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await self.stop()

    def _up(self) -> None:
        self._state, self._served, self._restart_failed = "ready", 0, False
        self._known.set()

    def _down(self, generation: int) -> None:
        # a request learns of a death before the keeper does; the next request must not run into the same corpse
        if self._state == "ready" and generation == self._worker.generation:
            self._state = "backing_off"
            self._known.clear()

    async def _keep(self) -> None:
        """Bring the child back whenever it is gone."""
        try:
            while True:
                await self._bring_back()
        finally:
            self._state = "stopped"
            self._known.set()  # nobody waits for a child that nobody brings back

    async def _bring_back(self) -> None:
        end = await self._worker.wait_ended()
        if not self._restart_failed:
            self._failure = end  # else the restart failed, and its own error says more
        self._down(self._worker.generation)
        if not self._recycling:
            self._failures += 1
            await self._back_off()
        self._recycling = False
        self._state = "starting"
        try:
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

    def _replied(self) -> None:
        self._last_reply_at = time.monotonic()
        self._failures = 0
        self._served += 1
        too_many = self._max_requests is not None and self._served >= self._max_requests
        too_large = self._max_rss_bytes is not None and self._worker.rss_bytes() > self._max_rss_bytes
        if too_many or too_large:
            log.info(
                "worker recycled name=%s requests=%d rss_bytes=%d", self._name, self._served, self._worker.rss_bytes()
            )
            self._recycling = True
            self._down(self._worker.generation)
            self._worker.kill()  # it is idle between two requests and holds nothing
