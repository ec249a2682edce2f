"""Fill a lane's slice from its partition of the compacted topic, up to a record that the lane itself has written."""

import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from consumer.dedup.store import DedupSlice

log = logging.getLogger(__name__)

SENTINEL_KEY = b"!lane"
"""Tombstone that a lane writes when it opens: where it is read back, the slice is whole."""
STARTED_KEY = b"!started"
"""Tombstone beside the first offset that a partition's lane ever committed: from then on a missing offset is a loss."""


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
        max_partition_fetch_bytes=8 * 1024 * 1024,
    )
    await consumer.start()
    try:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        reached = -1
        while reached < until:
            records = (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
            entries = [(record.key, record.value) for record in records if record.key is not None]
            started = started or any(key == STARTED_KEY for key, _ in entries)
            into.apply((key, value) for key, value in entries if not key.startswith(b"!"))
            if records:
                reached = records[-1].offset
    finally:
        await consumer.stop()
    log.debug("restored %d entries of %s/%d", len(into), partition.topic, partition.partition)
    return started
