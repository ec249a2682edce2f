"""Recordings in flight, on disk and by digest: their bytes, and their samples once decoded.

A leased recording stays. One that nobody leases stays too while there is room, least recently used out first: an
event that was moved to another partition finds its bytes again. One process owns the folder.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from consumer.errors import MachineError, ServiceError, TransientError
from schemas.codes import Reason

_SUFFIXES = (".audio", ".pcm", ".part")
_LARGE_BYTES = 16 * 1024 * 1024
"""To remove a file takes a millisecond for each of so many bytes that are in the page cache."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A recording's bytes in the spool; valid while its lease is held."""

    digest: str
    path: Path
    size_bytes: int


@dataclass(slots=True)
class _Entry:
    fetched: Fetched
    leases: int = 0
    pcm_bytes: int = 0


class Spool:
    """Files by digest (``<digest>.audio``, ``<digest>.pcm``), leases, and a limit on their bytes.

    The limit stops new fetches, not running ones: it may be passed by what is being written just then.
    All methods are quick and belong to the event loop, except Part.write.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._open_parts: set[Part] = set()
        self._scratches = 0
        self._used_bytes = 0
        self._room = asyncio.Event()
        self._lock: int | None = None
        self._removing: ThreadPoolExecutor | None = None
        """While it is open: removes large files."""

    @property
    def used_bytes(self) -> int:
        """What lies in the spool, leased or not."""
        return self._used_bytes + sum(part.size_bytes for part in self._open_parts)

    def open(self) -> None:
        """Take the folder and empty it. Raises ServiceError if another process has it, or if it cannot be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            detail = f"{self._folder} cannot be used: {error.strerror}"
            raise ServiceError(f"{detail}; set state_dir to a folder that this service may write to") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ServiceError(f"{self._folder} belongs to another process; give each its own state_dir") from error
        self._lock = lock
        self._removing = ThreadPoolExecutor(1, "spool")
        self._wipe()
        self._room.set()

    def close(self) -> None:
        """Empty the folder and let it go; idempotent."""
        if self._lock is not None:
            if self._removing is not None:
                self._removing.shutdown()
                self._removing = None
            self._wipe()
            os.close(self._lock)
            self._lock = None

    async def admit(self) -> None:
        """Wait until there is room for another recording."""
        while not self._make_room():
            self._room.clear()
            await self._room.wait()

    @contextlib.contextmanager
    def lease(self, digest: str) -> Iterator[Fetched | None]:
        """Hold a recording, bytes and samples, for the length of the block; None if it is not here."""
        entry = self._entries.get(digest)
        if entry is None:
            yield None
            return
        entry.leases += 1
        self._entries.move_to_end(digest)
        try:
            yield entry.fetched
        finally:
            entry.leases -= 1
            self._make_room()

    @contextlib.contextmanager
    def part(self) -> Iterator["Part"]:
        """A new file to write a recording's bytes to; removed at the end of the block unless it was kept."""
        with self.scratch() as path:
            part = Part(path)
            self._open_parts.add(part)
            try:
                yield part
            finally:
                self._open_parts.discard(part)
                part.close()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """The path of a temporary file, which may be written by a child; removed at the end if it is still there."""
        self._scratches += 1
        path = self._folder / f"{self._scratches}.part"
        try:
            yield path
        finally:
            self._remove(path)
            self._make_room()

    def keep(self, part: "Part") -> str:
        """File a complete part under its digest, which is returned; lease it before the next await."""
        part.close()
        digest = part.digest
        self._open_parts.discard(part)
        if digest in self._entries:
            self._remove(part.path)
        else:
            path = self._folder / f"{digest}.audio"
            part.path.rename(path)
            self._entries[digest] = _Entry(Fetched(digest, path, part.size_bytes))
            self._used_bytes += part.size_bytes
        return digest

    def pcm_path(self, digest: str) -> Path | None:
        """A leased recording's samples, if they are here."""
        entry = self._entries.get(digest)
        return self._folder / f"{digest}.pcm" if entry is not None and entry.pcm_bytes else None

    def keep_pcm(self, digest: str, scratch: Path) -> Path:
        """File decoded samples beside their recording, which must be leased; their path."""
        entry = self._entries[digest]
        path = self._folder / f"{digest}.pcm"
        scratch.replace(path)
        size_bytes = path.stat().st_size
        self._used_bytes += size_bytes - entry.pcm_bytes
        entry.pcm_bytes = size_bytes
        return path

    def _make_room(self) -> bool:
        """Drop what nobody leases, oldest first, until the limit holds; whether it does."""
        while self.used_bytes >= self._limit_bytes:
            unused = next((digest for digest, entry in self._entries.items() if not entry.leases), None)
            if unused is None:
                return False
            self._drop(unused)
        self._room.set()
        return True

    def _drop(self, digest: str) -> None:
        entry = self._entries.pop(digest)
        self._used_bytes -= entry.fetched.size_bytes + entry.pcm_bytes
        self._remove(entry.fetched.path)
        self._remove(self._folder / f"{digest}.pcm")

    def _remove(self, path: Path) -> None:
        """Let a file go if it is there; a large one in a thread, since the event loop would stand still for it."""
        try:
            if self._removing is None or path.stat().st_size < _LARGE_BYTES:
                path.unlink()
                return
            self._scratches += 1
            doomed = path.rename(self._folder / f"{self._scratches}.part")  # it may come again under its own name
        except FileNotFoundError:
            return
        self._removing.submit(_unlink, doomed)

    def _wipe(self) -> None:
        for path in self._folder.iterdir():
            if path.suffix in _SUFFIXES:
                path.unlink(missing_ok=True)
        self._entries.clear()
        self._used_bytes = 0


class Part:
    """A recording's bytes as they arrive, hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._closed = False

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append; blocking, for a thread. Raises MachineError when the disk is full."""
        if self._closed:
            raise TransientError(Reason.FETCH_FAILED, "the fetch was given up")
        try:
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(data)
        except OSError as error:
            raise _disk_error(error, self.path.parent) from error
        self._hash.update(data)
        self.size_bytes += len(data)

    def close(self) -> None:
        """Flush and close; idempotent. Raises MachineError when the disk is full."""
        file, self._file, self._closed = self._file, None, True
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise _disk_error(error, self.path.parent) from error


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        log.warning("cannot_remove %s: %s", path, error.strerror)


def _disk_error(error: OSError, folder: Path) -> MachineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            Reason.FETCH_FAILED, f"the disk of {folder} is full: make room or lower spool_bytes, then it is tried again"
        )
    return MachineError(Reason.FETCH_FAILED, f"cannot write to {folder}: {error.strerror}")
