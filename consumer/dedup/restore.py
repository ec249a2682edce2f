"""Fill a lane's slice from its partition of a compacted topic, up to a record that the lane itself has written."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.structs import TopicPartition

from consumer.to_the_end import to_the_end

_POLL_RECORDS = 500
"""As many at once as leave the event loop responsive; a fetch holds tens of thousands of small ones."""


class Restored(Protocol):
    """Takes entries over, in the topic's order."""

    def apply(self, records: Iterable[tuple[bytes, bytes | None]]) -> None: ...


def sentinel_key(group_id: str) -> bytes:
    """Of the tombstone that a lane writes when it opens: where it is read back, the slice is whole."""
    return f"!lane/{group_id}".encode()


def started_key(group_id: str) -> bytes:
    """Of the tombstone for a partition whose offset this group has committed: from then on a missing one is a loss.

    Written again at each opening, so that compaction forgets it no sooner than Kafka forgets the offsets of a group
    that is gone. Another group on the same topics starts where its own settings say.
    """
    return f"!started/{group_id}".encode()


async def restore(
    connection: Mapping[str, Any],
    partition: TopicPartition,
    until: int,
    into: Restored,
    *,
    group_id: str,
    progress: Callable[[], None] = lambda: None,
) -> bool:
    """Read everything committed up to and with offset ``until``; no timer decides where the end is.

    Returns whether this group had started on the partition before. Waits out broker failures; bounded by cancellation.
    ``progress`` is called whenever records have come.
    """
    started = False
    async with aclosing(records_until(connection, partition, until)) as found:
        async for records in found:
            entries = [(record.key, record.value) for record in records if record.key is not None]
            started = started or any(key == started_key(group_id) for key, _ in entries)
            # hundreds at a time: not on the event loop; and whoever is cancelled here closes the slice next
            applying = asyncio.to_thread(into.apply, [entry for entry in entries if not entry[0].startswith(b"!")])
            await to_the_end(applying)
            progress()
    return started


async def records_until(
    connection: Mapping[str, Any], partition: TopicPartition, until: int
) -> AsyncGenerator[list[ConsumerRecord], None]:
    """Everything committed up to and with offset ``until``, as it comes. Waits out broker failures."""
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
            found = await consumer.getmany(partition, timeout_ms=1000, max_records=_POLL_RECORDS)
            records = found.get(partition, [])
            if records:
                reached = records[-1].offset
                yield records
    finally:
        await to_the_end(consumer.stop())
