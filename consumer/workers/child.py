"""The child's side of a supervised process: read a request, answer it, until the parent is gone.

A child module is ``if __name__ == "__main__": serve(setup)``. It imports whatever is heavy or talkative inside
``setup``: until ``serve`` has run, what a library prints would go into the channel.
Imports neither torch nor transformers.
"""

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from consumer.errors import ReasonedError, TransientError
from consumer.workers.channel import Frame, pack, read_frame, write_frame

Handler = Callable[[dict[str, Any], bytes], Frame]
"""Answers one request. A ReasonedError reaches the parent as it is, any other Exception as the child's fault;
SystemExit ends the child, for those who no longer trust their own process."""
Setup = Callable[[dict[str, Any]], tuple[dict[str, Any], Handler]]
"""Gets the init dict, returns what the child says of itself and its handler."""

_PR_SET_PDEATHSIG = 1


def serve(setup: Setup) -> None:
    """Run the child: announce readiness, then answer until the channel ends."""
    requests, replies = _take_channel()
    _die_with_parent()
    frame = read_frame(requests)
    if frame is None:
        return
    try:
        info, handler = setup(frame[0])
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent must be told)
        write_frame(replies, {"id": 0, "error": describe(error)})
        return
    write_frame(replies, {"id": 0, "body": info})
    while (request := read_frame(requests)) is not None:
        _answer(replies, handler, *request)


def describe(error: Exception) -> dict[str, Any]:
    """An exception as it travels to the parent."""
    if not isinstance(error, ReasonedError):
        return {"kind": "fault", "type": type(error).__name__, "detail": str(error)[:2000]}
    return {
        "kind": next(base.__name__ for base in type(error).__mro__ if base.__module__ == ReasonedError.__module__),
        "reason": error.reason,
        "detail": error.detail,
        "retriable": error.retriable,
        "retry_after_seconds": error.retry_after_seconds if isinstance(error, TransientError) else None,
    }


def _answer(replies: BinaryIO, handler: Handler, envelope: dict[str, Any], payload: bytes) -> None:
    try:
        body, answer = handler(envelope["body"], payload)
        parts = pack({"id": envelope["id"], "body": body}, answer)
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent must be told)
        parts = pack({"id": envelope["id"], "error": describe(error)})
    for part in parts:
        replies.write(part)
    replies.flush()


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Keep fds 0 and 1 for the channel alone: libraries read nothing and print to stderr."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _die_with_parent() -> None:
    """SIGKILL when the parent goes, even in the middle of work; the end of the channel tells the rest."""
    faulthandler.enable()
    # the parent decides: neither Ctrl-C nor a service manager's SIGTERM to the whole group cuts a drain short
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
