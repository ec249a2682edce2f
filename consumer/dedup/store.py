"""The dedup entries of the partitions that this process owns, on disk so that memory stays bounded.

Each lane fills its slice from the compacted topic when it opens, and adds to it after each confirmed commit; nothing
here outlives the lane, so nothing here can be stale.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from consumer.errors import ServiceError

_TABLE = "CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"


class DedupSlice:
    """One partition's entries: key to value, both as they are on the topic.

    Raises ServiceError when the disk fails it: without its memory a lane would pay twice.
    """

    def __init__(self, folder: Path) -> None:
        with on_disk("the dedup slice"):
            self._database = scratch_database(folder, "dedup", _TABLE)

    def apply(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Take records over in the topic's order; a null value forgets its key."""
        with on_disk("the dedup slice"):
            self._database.execute("BEGIN")
            for key, value in records:
                if value is None:
                    self._database.execute("DELETE FROM entries WHERE key = ?", (key,))
                else:
                    self._database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))
            self._database.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        """The entry's value, if the partition has heard this before."""
        with on_disk("the dedup slice"):
            row = self._database.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM entries").fetchone()[0])

    def close(self) -> None:
        """Forget everything."""
        self._database.close()


def scratch_database(folder: Path, name: str, table: str) -> sqlite3.Connection:
    """A database with one table that no crash leaves behind. Raises what ``on_disk`` understands."""
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=f"{name}-", suffix=".sqlite", delete=False) as file:
        path = Path(file.name)
    try:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # scratch: it is rebuilt from the topic, so no write need survive a crash
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute(table)
    finally:
        path.unlink()  # it lives as long as it is open, so that no crash leaves it behind
    return database


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """ServiceError for a disk that fails: ``what`` cannot be kept."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ServiceError(f"{what} cannot be kept ({error}): see to the disk of state_dir") from error


class DedupSlices:
    """The slices of all lanes that are open in this process, by partition."""

    def __init__(self) -> None:
        self._slices: dict[int, DedupSlice] = {}

    def open(self, partition: int, slice_: DedupSlice) -> None:
        """A lane is about to take records: its slice is whole."""
        self._slices[partition] = slice_

    def close(self, partition: int, slice_: DedupSlice) -> None:
        """The lane is gone; a newer lane of the same partition is left alone."""
        if self._slices.get(partition) is slice_:
            del self._slices[partition]
        slice_.close()

    def get(self, partition: int, key: bytes) -> bytes | None:
        """What is remembered under a key, where this process owns it."""
        slice_ = self._slices.get(partition)
        return slice_.get(key) if slice_ is not None else None

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """An entry whose commit is confirmed."""
        slice_ = self._slices.get(partition)
        if slice_ is not None:
            slice_.apply([(key, value)])
