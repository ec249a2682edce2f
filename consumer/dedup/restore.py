"""Fill a lane's slice from its partition of the compacted topic, up to a record that the lane itself has written."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from consumer.dedup.store import DedupSlice

SENTINEL_KEY = b"!lane"
"""Tombstone that a lane writes when it opens: where it is read back, the slice is whole."""
STARTED_KEY = b"!started"
"""Tombstone for a partition whose lane has committed an offset: from then on a missing offset is a loss. Written again
at each opening, so that compaction forgets it no sooner than Kafka forgets the offsets of a group that is gone."""


async def restore(connection: Mapping[str, Any], partition: TopicPartition, until: int, into: DedupSlice) -> bool:
    """Read everything committed up to and with offset ``until``; no timer decides where the end is.

    Returns whether the partition's lane had been started before. Waits out broker failures; bounded by cancellation.
    """
    started = False
    consumer = AIOKafkaConsumer(
        **connection,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    try:
        await consumer.start()
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        reached = -1
        while reached < until:
            records = (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
            entries = [(record.key, record.value) for record in records if record.key is not None]
            started = started or any(key == STARTED_KEY for key, _ in entries)
            # thousands at a time: not on the event loop
            await asyncio.to_thread(into.apply, [entry for entry in entries if not entry[0].startswith(b"!")])
            if records:
                reached = records[-1].offset
    finally:
        await consumer.stop()
    return started
