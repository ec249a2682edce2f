"""A child that does what a test tells it: answers, sleeps, prints, crashes, breaks the protocol."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from consumer.errors import EventError, RecordingError, TransientError
from consumer.workers import child
from consumer.workers.channel import Frame
from consumer.workers.child import Handler
from schemas.codes import Reason

ballast = bytearray()
channel: list[BinaryIO] = []


def setup(init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    """``fail``: raise; ``fail_if``: raise while that file exists; ``hang``, ``hang_if``: never be ready;
    ``ballast_bytes``: weigh more."""
    if init.get("hang") or ("hang_if" in init and Path(init["hang_if"]).exists()):
        time.sleep(3600)
    if init.get("fail") or ("fail_if" in init and Path(init["fail_if"]).exists()):
        raise RecordingError(Reason.POISON, "this child was told to fail")
    ballast.extend(os.urandom(int(init.get("ballast_bytes", 0))))
    return {"pid": os.getpid()}, Handler(handle, prepare)


def prepare(request: dict[str, Any], payload: bytes) -> bytes:
    """``prepared``: touch that file; ``unprepared``: raise; ``lost``: leave."""
    if "prepared" in request:
        Path(request["prepared"]).touch()
    if request.get("unprepared"):
        raise ZeroDivisionError("nothing to prepare")
    if request.get("lost"):
        raise SystemExit(9)
    return payload


def handle(request: dict[str, Any], payload: bytes) -> Frame:
    match request["do"]:
        case "echo":
            return {"pid": os.getpid(), "said": request.get("say")}, payload
        case "print":
            print("a library prints", flush=True)
            os.write(1, b"and so does C\n")
            print("x" * 100_000, file=sys.stderr, flush=True)
        case "sleep":
            time.sleep(request["seconds"])
        case "wait_for_file":
            while not Path(request["path"]).exists():
                time.sleep(0.005)
        case "leak":
            ballast.extend(os.urandom(int(request["leak_bytes"])))
            return {"pid": os.getpid()}, b""
        case "segfault":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            ctypes.string_at(0)
        case "exit":
            raise SystemExit(7)
        case "garbage":
            channel[0].write(b"this is no frame at all, is it?")
            channel[0].flush()
            time.sleep(3600)
        case "recording_error":
            raise RecordingError(Reason.CORRUPT_AUDIO, "torn")
        case "event_error":
            raise EventError(Reason.UNSUPPORTED_LANGUAGE, "no Welsh")
        case "transient_error":
            raise TransientError(Reason.FETCH_FAILED, "later", retry_after_seconds=3.5)
        case "fault":
            raise ZeroDivisionError("seven by nothing")
    return {}, b""


def take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Take it as any child does, and keep a way to spoil it."""
    requests, replies = honest()
    channel.append(replies)
    return requests, replies


if __name__ == "__main__":
    honest, child._take_channel = child._take_channel, take_channel
    child.serve(setup)
