"""How many events of the input topic the group has not settled yet, as the brokers say."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from consumer.errors import ServiceError
from consumer.kafka.client import connection
from consumer.kafka.committed import CommittedOffsets
from consumer.kafka.reading import Reader
from consumer.settings import Settings

Lag = Callable[[], Awaitable[int]]
"""The lag now. Raises KafkaError; waits while a coordinator is away: its caller bounds it."""


@asynccontextmanager
async def group_lag(settings: Settings, reader: Reader) -> AsyncIterator[Lag]:
    """Asks for the lag, for the length of the block. Raises ServiceError when no broker answers.

    It counts from the lowest unsettled event of each partition, and transaction markers too: good for a trend.
    """
    client = AIOKafkaClient(**connection(settings))
    try:
        await client.bootstrap()
    except KafkaError as error:
        raise ServiceError(f"cannot reach Kafka at {settings.kafka_bootstrap_servers}: {error!r}") from error
    offsets = CommittedOffsets(client, settings.group_id)

    async def lag() -> int:
        total = 0
        for partition, (first, end) in (await reader.bounds(settings.topics.events)).items():
            committed = (await offsets.read(partition)).offset
            total += max(0, end - (first if committed is None else committed))
        return total

    try:
        yield lag
    finally:
        await client.close()
