"""The composition root: makes every part, joins them, and ends them in order.

start → run → drain → stop; a second signal stops at once.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.audio.decoder import DecoderPool
from consumer.audio.fetch import Fetcher
from consumer.audio.recordings import Recordings
from consumer.audio.spool import Spool
from consumer.dedup.single_flight import SingleFlight
from consumer.dedup.store import DedupSlices
from consumer.engines.choose import choose_engine, profile_of
from consumer.engines.hybrid import HybridEngine
from consumer.errors import EarwitnessError, ServiceError
from consumer.kafka import topics
from consumer.kafka.client import connection
from consumer.kafka.commits import LaneCommits
from consumer.kafka.committed import CommittedOffsets
from consumer.kafka.intake import Intake
from consumer.kafka.lane import Lane, LaneParts
from consumer.kafka.opening import Opening
from consumer.kafka.transaction import LaneProducer
from consumer.pipeline import Pipeline
from consumer.settings import Settings
from consumer.telemetry.export import exporting
from consumer.telemetry.spans import Tracing
from schemas.topics import outcome_bytes

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run until a signal asks to drain. Raises ServiceError when a promise cannot be kept."""
    with exporting("earwitness"):
        await topics.check(settings)
        try:
            async with hearing(settings) as (recordings, engine):
                await _serve(settings, recordings, engine)
        except BaseExceptionGroup as group:
            raise _cause(group) from group
        log.info("stopped in order")


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What stopped the service, out of all that its tasks raised on the way down."""
    told: BaseException = group.subgroup(EarwitnessError) or group
    while isinstance(told, BaseExceptionGroup):
        told = told.exceptions[0]
    return told


@asynccontextmanager
async def hearing(settings: Settings) -> AsyncIterator[tuple[Recordings, HybridEngine]]:
    """Everything that turns an address into words, started and warm; needs no Kafka."""
    async with AsyncExitStack() as stack:
        spool = Spool(settings.state_dir / "spool", settings.spool_bytes)
        spool.open()
        stack.callback(spool.close)
        fetcher = await stack.enter_async_context(Fetcher(settings, spool))
        decoders, engine = DecoderPool(settings, spool), choose_engine(settings)
        stack.push_async_callback(decoders.stop)
        stack.push_async_callback(engine.stop)
        async with asyncio.TaskGroup() as starting:
            starting.create_task(decoders.start())
            starting.create_task(engine.start())
        log.info("engine_ready %s %s", engine.primary.ref.name, engine.primary.ref.model)
        yield Recordings(spool, fetcher, decoders, attempts=settings.fetch_attempts), engine


async def _serve(settings: Settings, recordings: Recordings, engine: HybridEngine) -> None:
    kafka = connection(settings)
    clock = asyncio.get_running_loop().time
    slices = DedupSlices()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        flights = SingleFlight(tasks, clock, settings.recording_failure_ttl_seconds)
        offsets = CommittedOffsets(await stack.enter_async_context(_client(kafka, settings)), settings.group_id)

        def make_lane(partition: TopicPartition) -> Lane:
            return Lane(partition, _commits(partition, settings, kafka, offsets, intake), parts)

        intake = Intake(settings, kafka, make_lane)
        opening = Opening(
            kafka,
            settings.topics.dedup,
            settings.state_dir / "dedup",
            settings.start_at,
            intake.bounds,
            intake.is_assigned,
        )
        pipeline = Pipeline(
            settings,
            recordings=recordings,
            engine=engine,
            fingerprint=profile_of(settings),
            slices=slices,
            flights=flights,
            tracing=Tracing(settings.group_id),
            partitions=intake.partitions,
            clock=clock,
        )
        parts = LaneParts(settings, intake, pipeline, slices, opening.open, outcome_bytes(settings.max_event_bytes))
        stack.push_async_callback(intake.stop)
        await intake.start()
        try:
            with _signals(intake):
                await intake.run()
        finally:
            flights.stop()


def _commits(
    partition: TopicPartition, settings: Settings, kafka: dict[str, Any], offsets: CommittedOffsets, intake: Intake
) -> LaneCommits:
    producer = LaneProducer(
        kafka,
        transactional_id=f"{settings.group_id}.{partition.topic}.{partition.partition}",
        group_id=settings.group_id,
        timeout_seconds=settings.transaction_timeout_ms / 1000,
        max_request_bytes=outcome_bytes(settings.max_event_bytes),
    )
    return LaneCommits(
        partition,
        settings.topics.dedup,
        producer,
        offsets,
        still_assigned=lambda: intake.is_assigned(partition),
    )


@asynccontextmanager
async def _client(kafka: dict[str, Any], settings: Settings) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(**kafka)
    try:
        await client.bootstrap()
    except KafkaError as error:
        raise ServiceError(f"cannot reach Kafka at {settings.kafka_bootstrap_servers}: {error!r}") from error
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def _signals(intake: Intake) -> Iterator[None]:
    """SIGTERM and SIGINT drain; a second one stops at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    asked = False

    def ask() -> None:
        nonlocal asked
        if asked and task is not None:
            log.warning("stopping at once: what is in flight will be heard again")
            task.cancel()
        asked = True
        log.info("draining")
        intake.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
