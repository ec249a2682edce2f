"""An event loop whose clock jumps to the next timer: hours of waiting in a second, the same every time."""

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Never sleeps. Work in threads or sockets has no place in it."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """So much time has passed."""
        self._now += seconds


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        if not found and timeout:
            self._loop.jump(timeout)
        return found


def run_in_virtual_time(work: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch, *modules: str) -> T:
    """Run to the end; ``time.monotonic`` of these modules is the loop's clock."""
    loop = VirtualTimeLoop()
    for module in modules:
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=loop.time))
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
