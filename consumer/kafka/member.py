"""A member of the consumer group, put together: the consumer, its lanes, and what they need of Kafka."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.dedup.store import DedupSlices
from consumer.errors import ServiceError
from consumer.kafka.brokers import BrokerWatch
from consumer.kafka.client import connection
from consumer.kafka.commits import LaneCommits
from consumer.kafka.committed import CommittedOffsets
from consumer.kafka.intake import Intake
from consumer.kafka.lane import Lane
from consumer.kafka.lane_parts import LaneParts, Work
from consumer.kafka.opening import Opening
from consumer.kafka.spending import Spending
from consumer.kafka.transaction import LaneProducer
from consumer.settings import Settings
from consumer.turns import Turns
from schemas.topics import outcome_bytes

_LOOK_AT_BROKERS_MS = 5000


@asynccontextmanager
async def member(
    settings: Settings,
    slices: DedupSlices,
    make_work: Callable[[Intake], Work],
    on_share: Callable[[float], None] = lambda _: None,
    committing: Callable[[], AbstractContextManager[None]] = nullcontext,
    on_new_share: Callable[[float], None] = lambda _: None,
    spending: Spending | None = None,
    turns: Turns | None = None,
) -> AsyncIterator[Intake]:
    """A connected member, ready to ``run``; it leaves the group at the end. Raises ServiceError without a broker.

    ``on_share`` is told this process's share of the partitions, 0 to 1, after each rebalance; ``on_new_share`` of each
    part of it that no process of the group has ever owned; ``committing`` is entered around each transaction, to
    measure it. ``spending``: the budgets, where there are any. ``turns``: the event loop's, if others have them too.
    """
    kafka, limit_bytes = connection(settings), outcome_bytes(settings.max_event_bytes)
    process, turns = secrets.token_hex(3), turns or Turns()

    def make_lane(partition: TopicPartition) -> Lane:
        producer = LaneProducer(
            kafka,
            transactional_id=f"{settings.group_id}.{partition.topic}.{partition.partition}",
            group_id=settings.group_id,
            timeout_seconds=settings.transaction_timeout_ms / 1000,
            max_request_bytes=limit_bytes,
            committing=committing,
            turns=turns,
        )
        commits = LaneCommits(
            partition,
            settings.topics.dedup,
            settings.group_id,
            producer,
            offsets,
            process=process,
            still_assigned=lambda: intake.is_assigned(partition),
            account=spending.account(partition.partition) if spending is not None else None,
        )
        return Lane(partition, commits, parts)

    async with _client(kafka, settings) as client:
        offsets = CommittedOffsets(client, settings.group_id)
        intake = Intake(settings, kafka, make_lane, on_share)
        opening = Opening(
            kafka,
            settings.topics,
            settings.state_dir / "dedup",
            settings.start_at,
            settings.lane_in_flight,
            intake.bounds,
            intake.is_assigned,
            lambda: on_new_share(1 / intake.partitions()),
        )
        parts = LaneParts(settings, intake, make_work(intake), slices, opening.open, limit_bytes, turns=turns)
        try:
            await intake.start()
            yield intake
        finally:
            await intake.stop()


@asynccontextmanager
async def _client(kafka: dict[str, Any], settings: Settings) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(**kafka, metadata_max_age_ms=_LOOK_AT_BROKERS_MS)
    client.cluster.add_listener(BrokerWatch())
    try:
        await client.bootstrap()
    except KafkaError as error:
        raise ServiceError(f"cannot reach Kafka at {settings.kafka_bootstrap_servers}: {error!r}") from error
    try:
        yield client
    finally:
        await client.close()
