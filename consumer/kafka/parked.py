"""The parked events of one lane: read back when it opens, published again when they are due.

The lane alone writes to its partition of the topic. What it parks, and the tombstone of what comes back, are part of
its transactions: so what is read back up to a lane's own sentinel is exactly what still waits, whoever died when.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
from aiokafka import ConsumerRecord
from aiokafka.structs import TopicPartition

from consumer.core.outcomes import Headers, Write
from consumer.core.parking import as_it_was, due_at
from consumer.dedup.restore import records_until
from consumer.dedup.store import on_disk, scratch_database
from consumer.to_the_end import to_the_end
from schemas.models import utc_now
from schemas.topics import Topics

_AT_ONCE = 200
"""Events that come back in one transaction at most."""
_AT_ONCE_BYTES = 8 * 1024 * 1024
_LONGEST_LOOK_SECONDS = 60.0
"""A timer counts in steps of the monotonic clock, and what is due is a matter of the wall clock: look that often."""
_TABLE = """CREATE TABLE parked (
    key BLOB PRIMARY KEY, due REAL NOT NULL, value BLOB NOT NULL, timestamp_ms INTEGER, headers TEXT NOT NULL
) WITHOUT ROWID"""
_DUE = "SELECT key, value, timestamp_ms, headers FROM parked WHERE due <= ? ORDER BY due, key LIMIT ?"


class ParkedEvents:
    """One partition's parked events, on disk so that memory stays bounded. Raises ServiceError when the disk fails."""

    def __init__(self, topics: Topics, partition: int, folder: Path) -> None:
        self._topics = topics
        self._partition = partition
        self._alarm: asyncio.TimerHandle | None = None
        with on_disk("parked events"):
            self._database = scratch_database(folder, "parked", _TABLE)
            self._database.execute("CREATE INDEX by_due ON parked (due, key)")
        self._next_due: float | None = None

    async def restore(self, connection: Mapping[str, Any], until: int, progress: Callable[[], None]) -> None:
        """Read the partition up to and with the lane's own sentinel. Bounded by cancellation."""
        partition = TopicPartition(self._topics.parked, self._partition)
        async with aclosing(records_until(connection, partition, until)) as found:
            async for records in found:
                # not on the event loop, and not to be closed under the thread
                await to_the_end(asyncio.to_thread(self._apply, [_as_write(record) for record in records]))
                progress()
        self._look_again()

    def committed(self, writes: Iterable[Write]) -> None:
        """A transaction of the lane is confirmed: what it parked waits from now on, what came back does not."""
        ours = [write for write in writes if write.topic == self._topics.parked]
        if ours:
            self._apply(ours)
            self._look_again()

    def due(self) -> list[Write]:
        """What comes back now: each event as it was, and the tombstone of its place here; oldest first, bounded."""
        if not self.any_due():
            return []
        moment = utc_now().timestamp()
        writes: list[Write] = []
        size_bytes = 0
        with on_disk("parked events"):
            for row in self._database.execute(_DUE, (moment, _AT_ONCE)):
                size_bytes += len(row[1])
                if writes and size_bytes > _AT_ONCE_BYTES:
                    break
                writes += [self._again(row), Write(self._topics.parked, row[0], None, self._partition)]
        return writes

    def any_due(self) -> bool:
        """Whether something waits that need not wait any more."""
        return self._next_due is not None and self._next_due <= utc_now().timestamp()

    def wake_when_due(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when something is due; once, and only the latest call counts."""
        self._still()
        if self._next_due is not None:
            left = min(max(0.0, self._next_due - utc_now().timestamp()), _LONGEST_LOOK_SECONDS)
            self._alarm = asyncio.get_running_loop().call_later(left, wake)

    def close(self) -> None:
        """Forget everything; the topic has it."""
        self._still()
        self._database.close()

    def _still(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _apply(self, writes: Iterable[Write]) -> None:
        with on_disk("parked events"):
            self._database.execute("BEGIN")
            for write in writes:
                if write.value is None:
                    self._database.execute("DELETE FROM parked WHERE key = ?", (write.key,))
                    continue
                headers = write.headers or []
                row = (write.key, due_at(headers), write.value, write.timestamp_ms, _headers_as_text(headers))
                self._database.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?)", row)
            self._database.execute("COMMIT")

    def _look_again(self) -> None:
        with on_disk("parked events"):
            (self._next_due,) = self._database.execute("SELECT min(due) FROM parked").fetchone()

    def _again(self, row: tuple[bytes, bytes, int | None, str]) -> Write:
        _, value, timestamp_ms, headers = row
        key, kept = as_it_was(_headers_from_text(headers))
        return Write(self._topics.events, key, value, self._partition, kept, timestamp_ms)


def _as_write(record: ConsumerRecord) -> Write:
    headers = [(name, value or b"") for name, value in record.headers]
    return Write(record.topic, record.key, record.value, record.partition, headers, record.timestamp)


def _headers_as_text(headers: Headers) -> str:
    return orjson.dumps([(name, b64encode(value).decode("ascii")) for name, value in headers]).decode()


def _headers_from_text(text: str) -> Headers:
    return [(name, b64decode(value)) for name, value in orjson.loads(text)]
