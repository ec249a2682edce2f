"""What memory a process holds and what the machine has left, as Linux tells it; elsewhere nothing is known."""

import os
from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def rss_bytes(pid: int) -> int:
    """A process's resident memory; 0 where that is unknown."""
    try:
        pages = int((_PROC / f"{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """What can be had without swapping, within a container's limit; 0 where that is unknown."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    try:
        most, used = (cgroup / "memory.max").read_text(), (cgroup / "memory.current").read_text()
        return free if most.strip() == "max" else min(free, max(0, int(most) - int(used)))
    except OSError:
        return free  # no limit of its own
