"""The composition root: makes every part, joins them, and ends them in order.

start → run → drain → stop; a second signal stops at once.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import Any

from consumer.audio.decoder import DecoderPool
from consumer.audio.fetch import Fetcher
from consumer.audio.recordings import Recordings
from consumer.audio.spool import Spool
from consumer.core.budget import UNLIMITED
from consumer.dedup.single_flight import SingleFlight
from consumer.dedup.store import DedupSlices
from consumer.engines.batch_report import BatchReport
from consumer.engines.breakers import OpenBreakers
from consumer.engines.choose import choose_engine, profile_of
from consumer.engines.hybrid import HybridEngine
from consumer.engines.second_looks import SecondLooks, second_looks
from consumer.errors import EarwitnessError, ServiceError
from consumer.kafka import topics
from consumer.kafka.client import connection
from consumer.kafka.intake import Intake
from consumer.kafka.lane_lag import LagWatch
from consumer.kafka.lane_parts import Work
from consumer.kafka.member import member
from consumer.kafka.spending import Spending, limits_of
from consumer.kafka.watch import watch
from consumer.pipeline import Pipeline
from consumer.settings import Settings
from consumer.settled import Memory
from consumer.status.vitals import Vitals
from consumer.status.watching import watched
from consumer.telemetry.export import exporting
from consumer.telemetry.loop_monitor import monitored_loop
from consumer.telemetry.spans import Tracing
from consumer.turns import Turns

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run until a signal asks to drain. Raises ServiceError when a promise cannot be kept."""
    with exporting("earwitness"), _signals() as stopping, monitored_loop() as loop_monitor:
        try:
            async with watched(settings, loop_monitor) as vitals:
                spending = _spending(settings, lanes=await topics.check(settings))
                async with (
                    hearing(settings, vitals.batches) as (recordings, engine),
                    second_looks(settings, engine) as looks,
                ):
                    vitals.engine_is(engine, recordings)
                    vitals.breakers_are({**engine.breakers, **looks.breakers})
                    await _serve(settings, recordings, engine, looks, stopping, vitals, spending)
        except BaseExceptionGroup as group:
            raise _cause(group) from group
        log.info(
            "stopped in order longest_loop_block_seconds=%.3f computing_seconds=%.3f",
            loop_monitor.longest_seconds,
            loop_monitor.longest_computing_seconds,
        )


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What stopped the service, out of all that its tasks raised on the way down."""
    told: BaseException = group.subgroup(EarwitnessError) or group
    while isinstance(told, BaseExceptionGroup):
        told = told.exceptions[0]
    return told


@asynccontextmanager
async def hearing(
    settings: Settings, observe: Callable[[BatchReport[Any]], None] = lambda _: None
) -> AsyncIterator[tuple[Recordings, HybridEngine]]:
    """Everything that turns an address into words, started and warm; needs no Kafka. ``observe`` sees each batch."""
    async with AsyncExitStack() as stack:
        spool = Spool(settings.state_dir / "spool", settings.spool_bytes)
        spool.open()
        stack.callback(spool.close)
        # its client loads certificates: tens of milliseconds
        fetcher = await stack.enter_async_context(await asyncio.to_thread(Fetcher, settings, spool))
        decoders, engine = DecoderPool(settings, spool), choose_engine(settings, observe)
        stack.push_async_callback(decoders.stop)
        stack.push_async_callback(engine.stop)
        async with asyncio.TaskGroup() as starting:
            starting.create_task(decoders.start())
            starting.create_task(engine.start())
        ref = engine.primary.ref
        log.info("engine_ready %s %s %s", ref.name, ref.model, ref.quantization or "not quantised")
        recordings = Recordings(
            spool,
            fetcher,
            decoders,
            attempts=settings.fetch_attempts,
            samples_limit_bytes=settings.spool_bytes // 2,
            decodes_at_once=len(decoders.children),
        )
        yield recordings, engine


def _spending(settings: Settings, lanes: int) -> Spending | None:
    """The budgets; None if none is set: then nothing of them costs anything."""
    limits = limits_of(settings)
    return Spending(limits, lanes, topic=settings.topics.budget, group_id=settings.group_id) if limits else None


async def _serve(
    settings: Settings,
    recordings: Recordings,
    engine: HybridEngine,
    looks: SecondLooks,
    stopping: "_Stopping",
    vitals: Vitals,
    spending: Spending | None,
) -> None:
    clock = asyncio.get_running_loop().time
    slices, turns = DedupSlices(), Turns()
    breakers = OpenBreakers({**engine.breakers, **looks.breakers})
    async with asyncio.TaskGroup() as tasks:
        flights = SingleFlight(tasks, clock, settings.recording_failure_ttl_seconds, turns=turns)
        memory = Memory(flights, slices, clock, vitals.settled, breakers.take)

        def make_work(intake: Intake) -> Work:
            return Pipeline(
                settings,
                recordings=recordings,
                engine=engine,
                fingerprint=profile_of(settings),
                memory=memory,
                tracing=Tracing(settings.group_id),
                partitions=intake.partitions,
                purse=spending.purse if spending is not None else lambda *_: UNLIMITED,
                looks=looks,
            )

        beside: list[asyncio.Task[None]] = []
        if settings.watch_metrics:
            beside.append(tasks.create_task(watch(settings, left_alone=breakers.now), name="watch metrics"))
        try:
            following = spending.following(connection(settings), tasks) if spending is not None else nullcontext()
            joining = member(
                settings, slices, make_work, engine.set_share, vitals.committing, engine.add_new_share, spending, turns
            )
            async with following, joining as intake:
                vitals.serves(intake, lag := LagWatch(intake), spending)
                beside.append(tasks.create_task(lag.run(), name="lag"))
                stopping.from_now_on(intake.drain)
                await intake.run()
        finally:
            flights.stop()
            for task in beside:
                task.cancel()


class _Stopping:
    """What signals ask for: the first to drain, or to give up while nothing has begun; the second to stop at once."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._drain: Callable[[], None] | None = None
        self.signals = 0

    @property
    def begun(self) -> bool:
        """Whether there is something to drain."""
        return self._drain is not None

    def from_now_on(self, drain: Callable[[], None]) -> None:
        """The service takes records now."""
        self._drain = drain

    def ask(self) -> None:
        """A signal came."""
        self.signals += 1
        if self.signals == 1 and self._drain is not None:
            log.info("draining")
            self._drain()
        elif self.signals <= 2:
            self._task.cancel()


@contextmanager
def _signals() -> Iterator[_Stopping]:
    """Obey SIGTERM and SIGINT for the length of the block. Raises ServiceError for the second."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stopping = _Stopping(task)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.ask)
    try:
        yield stopping
    except asyncio.CancelledError as error:
        if not stopping.signals:
            raise
        task.uncancel()  # the signal asked for it, and this is the answer
        if stopping.begun:
            raise ServiceError("a second signal stopped it at once; what was in flight will be heard again") from error
        log.info("stopped before it began")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
