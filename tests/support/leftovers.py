"""Finds what a test leaves behind: child processes, tasks, errors that nobody looked at."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

_SETTLE_SECONDS = 3.0


def child_processes(pid: int | str = "self") -> set[int]:
    """A process's children (this one's by default), those not yet reaped included; Python's own helpers aside."""
    found: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(map(int, listing.read_text(encoding="ascii").split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended meanwhile
    helpers = (resource_tracker._resource_tracker, forkserver._forkserver)
    return found - {getattr(helper, attribute, None) for helper in helpers for attribute in ("_pid", "_forkserver_pid")}


def new_children(known: set[int], expected: set[int]) -> dict[int, str]:
    """Children that are neither known nor expected, with their command lines, once they had time to end."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (left := child_processes() - known - expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {pid: _command(pid) for pid in left}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200] or "zombie"
    except FileNotFoundError:
        return "gone"


@asynccontextmanager
async def watched_loop() -> AsyncIterator[list[str]]:
    """Collects into the list what the running loop complains of in the block and the tasks that outlive it."""
    loop = asyncio.get_running_loop()
    faults: list[str] = []

    def complain(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        faults.append(f"{context['message']}: {context.get('exception')!r}")

    loop.set_exception_handler(complain)
    before = asyncio.all_tasks()
    yield faults
    left = asyncio.all_tasks() - before - {task for task in (asyncio.current_task(),) if task}
    if left:
        _done, left = await asyncio.wait(left, timeout=_SETTLE_SECONDS)
    faults += [f"task left running: {task!r}" for task in left]
    del left
    gc.collect(1)  # a forgotten future complains when it is collected
    loop.set_exception_handler(None)
