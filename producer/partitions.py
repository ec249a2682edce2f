"""Asks Kafka whether the topics are there before anything waits for them."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
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
    servers = connection["bootstrap_servers"]
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(timeout_seconds):
            client = AIOKafkaClient(**connection)
            stack.push_async_callback(client.close)
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
    except (KafkaError, TimeoutError) as error:
        raise PublishError(f"no Kafka broker answers at {servers}: {str(error) or 'time-out'}") from error
    except ValueError as error:  # an address that is none, or TLS and SASL that do not fit together
        raise PublishError(f"cannot connect to {servers!r}: {error}") from error
    counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
    if missing := [topic for topic, count in counts.items() if count == 0]:
        raise PublishError(f"there is no topic {' and no '.join(missing)}: run `earwitness topics create`")
    return counts
