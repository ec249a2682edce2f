"""The one door to the API: requests a minute, audio-seconds a minute, requests at once.

One dispatcher lets requests through, the urgent ones first. asyncio-throttle polls for each of its waiters, so
only the dispatcher ever waits for it.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from asyncio_throttle import Throttler

from consumer.core.limits import Share, WindowLimit, counted_seconds
from consumer.core.model import Urgency
from consumer.engines.api_limits import ToldLimits
from consumer.errors import EventError, TransientError
from schemas.codes import Reason

log = logging.getLogger(__name__)


class ArrivalThrottler(Throttler):  # type: ignore[misc] # the library ships no types
    """asyncio-throttle, counting as the receiver counts.

    The library stamps a request when it may *start*; but its audio has still to be encoded, so that two of the
    library's windows could meet in one of the receiver's. Here it holds its place, and is stamped when it is sent.
    Nor does the library expect another limit while somebody waits: here ``limit_now`` sets it before each look.
    """

    def __init__(self, rate_limit: int, period: float, retry_interval: float, limit_now: Callable[[], None]) -> None:
        super().__init__(rate_limit, period, retry_interval)
        self._limit_now = limit_now

    def flush(self) -> None:
        """Called by the library whenever it looks whether there is room."""
        self._limit_now()
        super().flush()

    def began(self) -> None:
        """The request that was just let through is getting ready."""
        self._task_logs.pop()
        self.rate_limit -= 1

    def sent(self) -> None:
        """It leaves now."""
        self.rate_limit += 1
        self._task_logs.append(time.monotonic())

    def given_up(self) -> None:
        """It will never be sent."""
        self.rate_limit += 1


@dataclass(order=True, slots=True)
class _Turn:
    rank: int
    """0: it goes before those of rank 1."""
    number: int
    audio_seconds: float = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class Permit:
    """A place at the API."""

    audio_seconds: float
    sending: Callable[[], None] = field(default=lambda: None)
    """To be called just before the request leaves: it counts from then on."""
    is_sent: bool = False


class ApiGate:
    """Owns the limits; ``run`` is the dispatcher and must run for as long as ``turn`` is used."""

    def __init__(
        self,
        *,
        requests_per_minute: int,
        audio_seconds_per_minute: float,
        concurrency: int,
        period_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests_per_minute
        self._audio_limit = audio_seconds_per_minute
        self._told = ToldLimits()
        self._period = counted_seconds(period_seconds)
        self._clock = clock
        self._throttler = ArrivalThrottler(
            requests_per_minute,
            self._period,
            min(0.05, period_seconds / 100),
            lambda: self._apply_share(self._clock()),
        )
        self._audio = WindowLimit(audio_seconds_per_minute, self._period)
        self._share = Share(self._period)
        self._running = 0
        self._unsent = 0
        """Of those running: getting ready."""
        self._waiting = 0
        self._concurrency = concurrency
        self._held_until = 0.0
        self._turns: asyncio.PriorityQueue[_Turn] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that have not been let through yet."""
        return self._waiting

    @property
    def shut_seconds(self) -> float:
        """How long it lets nothing through: the API asked for that, or this process has no share of the limits yet."""
        now = self._clock()
        unshared = self._share.grows_in(now) if self._share.value(now) <= 0 else 0.0
        return max(unshared, self._held_until - now, 0.0)

    @property
    def shut_why(self) -> str:
        """``asked_to_wait`` by the API, or ``no_share_yet``; only while it is shut."""
        return "asked_to_wait" if self._share.value(self._clock()) > 0 else "no_share_yet"

    def set_share(self, share: float) -> None:
        """This process's part of the group's limits, 0 to 1: the partitions it owns over all of them."""
        now = self._clock()
        self._share.set(share, now)
        if share > (usable := self._share.value(now)):
            log.info("api_share %.2f now, %.2f in %.0f s: until then others may count", usable, share, self._period)
        self._changed.set()

    def add_new_share(self, part: float) -> None:
        """A part of the share that no process had before: it may be used at once."""
        self._share.add_new(part, self._clock())
        self._changed.set()

    def heed(self, told: ToldLimits) -> None:
        """The API's own limits count where they are lower; what is used up is waited for, a period at most."""
        self._told = replace(
            self._told,
            requests=told.requests or self._told.requests,
            audio_seconds=told.audio_seconds or self._told.audio_seconds,
        )
        if told.hold_seconds:
            self.hold(min(told.hold_seconds, self._period))

    def hold(self, seconds: float) -> None:
        """Let nothing through for so long: the API asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    @asynccontextmanager
    async def turn(
        self, audio_seconds: float, *, urgency: Urgency | None = None, wait_at_most: float | None = None
    ) -> AsyncIterator[Permit]:
        """Wait for a place, as urgently as ``urgency`` is at each moment; hold it while the request runs.

        ``Permit.sending`` is to be called just before it is sent; a request that never is does not count.

        Raises TransientError if the gate closes first, EventError ``deadline_exceeded`` after ``wait_at_most`` seconds.
        """
        if self._closed:
            raise _stopped()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        urgency = urgency or Urgency()
        turn = _Turn(0 if urgency.critical else 1, next(self._numbers), audio_seconds, granted)
        self._turns.put_nowait(turn)
        self._waiting += 1
        permit = Permit(audio_seconds)
        permit.sending = lambda: self._send(permit)
        try:
            try:
                # it stays in its old place too, where it is passed over once it has been granted
                with urgency.listen(lambda: self._turns.put_nowait(replace(turn, rank=0))):
                    await _within(granted, wait_at_most)
            finally:
                self._waiting -= 1
            yield permit
        finally:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._leave(permit)
            self._changed.set()  # whoever gave up at the head of the queue must not keep the others

    async def run(self) -> None:
        """Let requests through until cancelled; then refuse those that still wait."""
        waiting: _Turn | None = None
        try:
            while True:
                waiting = await self._turns.get()
                await self._admit(waiting)
                waiting = None
        except Exception:
            log.exception("api_dispatcher_died: the API engine serves nothing until the service is restarted")
            raise
        finally:
            self._closed = True
            left = [] if waiting is None else [waiting]
            while not self._turns.empty():
                left.append(self._turns.get_nowait())
            for turn in left:
                if not turn.granted.done():
                    turn.granted.set_exception(_stopped())

    async def _admit(self, turn: _Turn) -> None:
        while not turn.granted.done():
            wait = self._wait_seconds(turn)
            if wait == 0.0:
                break
            self._changed.clear()
            await self._until_changed(wait)
        if turn.granted.done():  # its caller was cancelled
            return
        try:
            await self._throttler.acquire()
        except asyncio.CancelledError:
            self._audio.refund(turn.audio_seconds)
            raise
        self._throttler.began()
        self._running += 1
        self._unsent += 1
        try:
            await self._until_not_held()  # that may have been asked for meanwhile
        except asyncio.CancelledError:
            self._leave(Permit(turn.audio_seconds))
            raise
        if turn.granted.done():
            self._leave(Permit(turn.audio_seconds))
        else:
            turn.granted.set_result(None)

    def _wait_seconds(self, turn: _Turn) -> float:
        """0.0: the audio is taken, and only the throttle is left to ask."""
        now = self._clock()
        self._apply_share(now)
        if (shut := self.shut_seconds) > 0:
            return shut
        if self._running >= max(1, int(self._concurrency * self._share.value(now))):
            return math.inf
        return self._audio.take(turn.audio_seconds, now)

    def _apply_share(self, now: float) -> None:
        share = self._share.value(now)
        requests = min(self._requests, self._told.requests or math.inf) * share
        # a part of less than one request a period becomes one request in a longer period
        stretch = 1.0 if requests >= 1 or requests == 0 else 1.0 / requests
        whole = int(requests) if stretch == 1.0 else 1
        self._throttler.rate_limit = whole - self._unsent
        self._throttler.period = self._period * stretch
        self._audio.change(min(self._audio_limit, self._told.audio_seconds or math.inf) * share, self._period)

    async def _until_not_held(self) -> None:
        while (held := self._held_until - self._clock()) > 0:
            self._changed.clear()
            await self._until_changed(held)

    async def _until_changed(self, wait: float) -> None:
        # a share that grew takes effect by the clock alone
        timeout = min(wait, self._period, self._share.grows_in(self._clock()))
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    def _send(self, permit: Permit) -> None:
        permit.is_sent = True
        self._unsent -= 1
        self._throttler.sent()
        self._audio.sent(permit.audio_seconds, self._clock())
        self._changed.set()  # what could only wait for this has a time to wait for now

    def _leave(self, permit: Permit) -> None:
        self._running -= 1
        if not permit.is_sent:
            self._unsent -= 1
            self._throttler.given_up()
            self._audio.refund(permit.audio_seconds)
        self._changed.set()


def _stopped() -> TransientError:
    return TransientError(Reason.ENGINE_FAILED, "the API engine has stopped")


async def _within(granted: asyncio.Future[None], wait_at_most: float | None) -> None:
    try:
        async with asyncio.timeout(wait_at_most):
            await granted
    except TimeoutError as error:
        detail = "the deadline passed in the API's queue; raise the API's limits or the event's deadline"
        raise EventError(Reason.DEADLINE_EXCEEDED, detail) from error
