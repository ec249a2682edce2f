"""What a process and all its children use, from /proc; and which cores are measured."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

ENOUGH_CORES = 4
"""From so many on, two are kept apart for the broker and the publisher."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.2


def split_cores(cores: set[int]) -> tuple[set[int], set[int]]:
    """The measured cores, and those of everything else: the same ones where there are too few to share out."""
    if len(cores) < ENOUGH_CORES:
        return cores, cores
    ordered = sorted(cores)
    return set(ordered[:-2]), set(ordered[-2:])


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What this thread starts meanwhile stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """The process and all that came of it; those that are gone are left out."""
    found = [pid]
    for one in found:
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, _read(listed).split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of the tree so far, with that of children that have ended and been waited for."""
    ticks = 0
    for one in tree(pid):
        # the fields behind the name, which may hold anything: utime, stime, cutime and cstime are the 14th to 17th
        fields = _read(Path(f"/proc/{one}/stat")).rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; what its processes share counts in each."""
    fields = (_read(Path(f"/proc/{one}/statm")).split() for one in tree(pid))
    return sum(int(sizes[1]) for sizes in fields if sizes) * _PAGE_BYTES


class PeakMemory:
    """Looks at a tree's memory five times a second, in a thread, while the ``with`` block runs."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            self.peak_bytes = max(self.peak_bytes, rss_bytes(self._pid))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended in the meantime
