"""Asks Kafka whether the topics are there before anything waits for them."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from producer.errors import PublishError


async def partition_counts(
    connection: Mapping[str, Any], topics: Iterable[str], *, timeout_seconds: float
) -> dict[str, int]:
    """How many partitions each topic has.

    Raises PublishError if one is missing, no broker answers, or the connection cannot be as it is given.
    """
    try:
        client = AIOKafkaClient(**connection)
    except ValueError as error:  # an address, or TLS and SASL that do not fit together
        raise PublishError(f"cannot connect to {connection['bootstrap_servers']!r}: {error}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
    except (KafkaError, TimeoutError) as error:
        servers = connection["bootstrap_servers"]
        raise PublishError(f"no Kafka broker answers at {servers}: {str(error) or 'time-out'}") from error
    finally:
        await client.close()
    counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
    if missing := [topic for topic, count in counts.items() if count == 0]:
        raise PublishError(f"there is no topic {' and no '.join(missing)}: run `earwitness topics create`")
    return counts
