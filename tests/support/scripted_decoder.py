"""A decode child whose recordings are orders: what a file's text says is what it does."""

import ctypes
import signal
import time
from pathlib import Path
from typing import Any

from consumer.workers.channel import Frame
from consumer.workers.child import Handler, serve


def setup(_init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    return {}, Handler(handle)


def handle(request: dict[str, Any], _payload: bytes) -> Frame:
    order, _, argument = Path(request["path"]).read_text().partition(" ")
    match order:
        case "crash":
            _crash()
        case "crash-once":
            if not Path(argument).exists():
                Path(argument).touch()
                _crash()
        case "hang":
            time.sleep(3600)
        case "wait":
            while not Path(argument).exists():
                time.sleep(0.005)
        case "swell":
            raise MemoryError
        case "bug":
            raise IndexError("of a table that a codec believed in")
    Path(request["out_path"]).write_bytes(b"\0" * 64)
    return {"samples": 16}, b""


def _crash() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


if __name__ == "__main__":
    serve(setup)
