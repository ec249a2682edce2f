"""The simulated engine: takes its time and its price, hears nothing. For load tests and capacity planning."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context

from consumer.core.batcher import Closed
from consumer.core.model import Heard, Recording, Wish
from consumer.engines.batch_report import BatchReport
from consumer.errors import TransientError
from consumer.settings import Settings
from schemas.codes import Reason
from schemas.models import Attempt, EngineRef, Recognised, Segment

_SIXTY = 60.0


class SimulatedEngine:
    """Answers ``simulated <first 16 hex of the digest>`` after ``audio_seconds / factor`` on one of its slots."""

    ref = EngineRef(name="simulated", model="simulated")

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        observe: Callable[[BatchReport[Recording]], None] = lambda _: None,
    ) -> None:
        """``observe`` is told of each recording as of a batch of one."""
        self._factor = settings.simulated_realtime_factor
        self._usd_per_minute = settings.simulated_usd_per_minute
        self._concurrency = settings.simulated_concurrency
        self._observe = observe
        self._slots = asyncio.Semaphore(settings.simulated_concurrency)
        self._language = settings.language
        self._clock = clock
        self._sleep = sleep
        self._scopes: set[asyncio.Timeout] = set()
        self._running = False
        self.queued_audio_seconds = 0.0
        """Audio that waits for a slot."""

    def language_of(self, wish: Wish) -> str | None:
        """Any language will do."""
        return wish.language or self._language

    async def start(self) -> None:
        self._running = True

    async def stop(self) -> None:
        """Every recording that is being heard ends with TransientError."""
        self._running = False
        for scope in self._scopes:
            scope.reschedule(0.0)

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        if not self._running:
            raise _stopped()
        scope = asyncio.timeout(None)
        self._scopes.add(scope)
        queued = self._clock()
        try:
            async with scope, self._slot(recording.audio_seconds):
                started = self._clock()
                wish.begins()
                await self._sleep(recording.audio_seconds / self._factor)
        except TimeoutError as error:
            raise _stopped() from error
        finally:
            self._scopes.discard(scope)
        seconds, heard_seconds = self._clock() - started, recording.audio_seconds
        contexts = [copy_context()]
        self._observe(
            BatchReport([recording], Closed.SIZE, heard_seconds, heard_seconds, seconds, contexts, self._concurrency)
        )
        return self._heard(recording, wish, started - queued, seconds)

    @asynccontextmanager
    async def _slot(self, audio_seconds: float) -> AsyncIterator[None]:
        self.queued_audio_seconds += audio_seconds
        try:
            await self._slots.acquire()
        finally:
            self.queued_audio_seconds -= audio_seconds
        try:
            yield
        finally:
            self._slots.release()

    def _heard(self, recording: Recording, wish: Wish, queue_seconds: float, infer_seconds: float) -> Heard:
        seconds = recording.audio_seconds
        text = f"simulated {recording.digest[:16]}"
        cost_usd = seconds * self._usd_per_minute / _SIXTY
        attempt = Attempt(
            engine=self.ref.name,
            model=self.ref.model,
            outcome="ok",
            audio_seconds=seconds,
            cost_usd=cost_usd,
            price_version="settings",
            usage_source="measured",
            seconds=infer_seconds,
        )
        recognised = Recognised(
            text=text,
            language=self.language_of(wish),
            segments=[Segment(start_seconds=0.0, end_seconds=seconds, text=text)],
            engine=self.ref,
            audio_seconds=seconds,
        )
        return Heard(recognised, cost_usd, [attempt], queue_seconds, infer_seconds)


def _stopped() -> TransientError:
    return TransientError(Reason.ENGINE_FAILED, "the simulated engine is not running")
