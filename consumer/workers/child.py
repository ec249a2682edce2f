"""The child's side of a supervised process: read requests, answer them, until the parent is gone.

A child module is ``if __name__ == "__main__": serve(setup)``. It imports whatever is heavy or talkative inside
``setup``: until ``serve`` has run, what a library prints would go into the channel.
A thread reads and prepares the next request while this one is answered: between two the child waits for nobody.
Imports neither torch nor transformers.
"""

import contextlib
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from consumer.errors import ReasonedError, TransientError
from consumer.workers.channel import Frame, pack, read_frame, write_frame

ADDED_OOM_SCORE = 500
"""As if it held half of the machine's memory besides: the kernel, short of it, ends a child before anybody else."""
MAX_AHEAD = 1
"""Requests that lie prepared, besides the one that the reader holds."""


def _payload_alone(_request: dict[str, Any], payload: bytes) -> Any:
    return payload


@dataclass(frozen=True, slots=True)
class Handler:
    """How a child answers. What ``prepare`` raises counts as raised by ``answer``, when the request's turn comes.

    A ReasonedError reaches the parent as it is, any other Exception as the child's fault; SystemExit ends the child
    at once, for those who no longer trust their own process.
    """

    answer: Callable[[dict[str, Any], Any], Frame]
    """Gets the request and what ``prepare`` made of it."""
    prepare: Callable[[dict[str, Any], bytes], Any] = field(default=_payload_alone)
    """Gets the request and its payload, in the reader's thread, while an earlier request is being answered."""
    at_once: int = 1
    """Requests that ``answer`` takes side by side."""


Setup = Callable[[dict[str, Any]], tuple[dict[str, Any], Handler]]
"""Gets the init dict, returns what the child says of itself and its handler."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Ready:
    """A request whose turn may come."""

    request_id: int
    request: dict[str, Any]
    prepared: Any = None
    failure: BaseException | None = None


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
    ahead: queue.Queue[_Ready | None] = queue.Queue(MAX_AHEAD)
    writing = threading.Lock()
    threads = [threading.Thread(target=_read_ahead, args=(requests, handler, ahead), daemon=True)]
    threads += [
        threading.Thread(target=_answer_all, args=(ahead, replies, writing, handler), daemon=True)
        for _ in range(handler.at_once - 1)
    ]
    for thread in threads:
        thread.start()
    _answer_all(ahead, replies, writing, handler)
    for thread in threads:
        thread.join()
    _leave(0)


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


def _read_ahead(requests: BinaryIO, handler: Handler, ahead: "queue.Queue[_Ready | None]") -> None:
    try:
        while (frame := read_frame(requests)) is not None:
            ahead.put(_prepared(handler, *frame))
    except BaseException:  # noqa: BLE001 (a thread that ends in silence would leave the child deaf)
        _leave(1, traceback.format_exc())
    for _ in range(handler.at_once):
        ahead.put(None)


def _prepared(handler: Handler, envelope: dict[str, Any], payload: bytes) -> _Ready:
    request_id, request = envelope["id"], envelope["body"]
    try:
        return _Ready(request_id, request, handler.prepare(request, payload))
    except (Exception, SystemExit) as error:  # noqa: BLE001 (kept: the blame must not fall on the request before)
        return _Ready(request_id, request, failure=error)


def _answer_all(
    ahead: "queue.Queue[_Ready | None]", replies: BinaryIO, writing: threading.Lock, handler: Handler
) -> None:
    try:
        while (ready := ahead.get()) is not None:
            parts = _answer(handler, ready)
            del ready  # its samples go before the next one's turn, not after it
            with writing:
                for part in parts:
                    replies.write(part)
                replies.flush()
    except SystemExit as leaving:
        _leave(leaving.code if isinstance(leaving.code, int) else 1)
    except BaseException:  # noqa: BLE001 (no parent to tell, or a bug: the exit code tells)
        _leave(1, traceback.format_exc())


def _answer(handler: Handler, ready: _Ready) -> tuple[bytes, bytes]:
    try:
        if ready.failure is not None:
            raise ready.failure  # noqa: TRY301 (it was raised already, elsewhere)
        body, answer = handler.answer(ready.request, ready.prepared)
        return pack({"id": ready.request_id, "body": body}, answer)
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent must be told)
        return pack({"id": ready.request_id, "error": describe(error)})


def _leave(code: int, why: str = "") -> NoReturn:
    """End at once, without clearing up: libraries abort over their own threads there, or hang on a broken accelerator,
    and other threads may be in the middle of work.
    """
    sys.stderr.write(why)
    sys.stderr.flush()
    os._exit(code)


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Keep fds 0 and 1 for the channel alone: libraries read nothing and print to stderr."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _die_with_parent() -> None:
    """SIGKILL when the parent goes, even in the middle of work; the end of the channel tells the rest.

    And before it: where the machine's memory is gone, a child can be had again.
    """
    faulthandler.enable()
    # the parent decides: neither Ctrl-C nor a service manager's SIGTERM to the whole group cuts a drain short
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):
            score = Path("/proc/self/oom_score_adj")
            score.write_text(str(min(1000, int(score.read_text()) + ADDED_OOM_SCORE)))
