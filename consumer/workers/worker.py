"""The parent's side of one child process: start it, ask it, end it for certain."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any

from consumer.errors import EventError, ReasonedError, RecordingError, TransientError
from consumer.workers.channel import ChannelError, Frame, receive, send
from consumer.workers.memory import rss_bytes
from schemas.codes import Reason

STOP_GRACE_SECONDS = 5.0
REAP_SECONDS = 30.0
LAST_WORDS_SECONDS = 1.0
LOG_LINE_BYTES = 2000

log = logging.getLogger(__name__)

_KINDS: dict[str, type[ReasonedError]] = {kind.__name__: kind for kind in (EventError, RecordingError)}


class WorkerDiedError(TransientError):
    """The child died, hung or talked nonsense over a request; it is dead and reaped when this is raised."""

    def __init__(self, detail: str, *, timed_out: bool = False, lost_requests: int = 1) -> None:
        super().__init__(Reason.ENGINE_FAILED, detail)
        self.timed_out = timed_out
        """The parent killed it because the request's time was over."""
        self.lost_requests = lost_requests
        """How many requests it held; each of them may be what ended it."""


class WorkerFaultError(TransientError):
    """The child lives, but its handler raised something that nobody foresaw; ``fault`` is that exception's type."""

    def __init__(self, fault: str, detail: str) -> None:
        super().__init__(Reason.ENGINE_FAILED, detail)
        self.fault = fault


class Worker:
    """One child process; ``start`` may be called again once it has ended.

    ``in_flight`` requests are with the child at once, so that it always has the next one; when it dies, all of them
    are lost. A caller that is cancelled leaves its request to finish (the child cannot be interrupted), within that
    request's own time-out; the next one waits. Answers are matched by number: each child has a pipe of its own, and
    no number is ever used again, so nothing of an earlier child can be taken for an answer.
    """

    def __init__(
        self, module: str, init: dict[str, Any], *, name: str, start_timeout_seconds: float, in_flight: int = 1
    ) -> None:
        self._module = module
        self._init = init
        self._name = name
        self._start_timeout_seconds = start_timeout_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._generation = 0
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._turn = asyncio.Semaphore(in_flight)
        self._exchanges: set[asyncio.Task[Frame]] = set()
        self._life: asyncio.Task[None] | None = None
        self._end = "was never started"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self.alive else None

    @property
    def generation(self) -> int:
        """How often the child was started."""
        return self._generation

    @property
    def alive(self) -> bool:
        return self._life is not None and not self._life.done()

    async def start(self) -> dict[str, Any]:
        """Spawn the child and wait until it is ready; its info dict.

        Raises the child's own ReasonedError, WorkerFaultError if its setup raised something else, WorkerDiedError
        if it died or was not ready in time. After any of these the child is gone.
        """
        if self.alive:
            raise RuntimeError(f"{self._name} is running: this is a bug")
        self._generation += 1
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", self._module,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            # what the parent can import, the child can, and nothing else
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C on the terminal is for the parent
        )  # fmt: skip
        self._life = asyncio.create_task(self._live(process), name=f"{self._name} life")
        try:
            answer, _ = await self._exchange(0, self._init, b"", self._start_timeout_seconds)
        except BaseException:
            await self._end_now()
            raise
        log.debug("worker ready name=%s pid=%d generation=%d", self._name, process.pid, self._generation)
        return answer

    async def request(
        self, header: dict[str, Any], payload: bytes = b"", *, timeout_seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        """Have the child answer; the time-out counts from when the child can begin: all earlier ones are answered.

        Raises WorkerDiedError, WorkerFaultError, or the ReasonedError that the child's handler raised.
        """
        task = asyncio.create_task(self._in_turn(header, payload, timeout_seconds), name=f"{self._name} request")
        self._exchanges.add(task)
        task.add_done_callback(self._exchange_done)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End the child: an idle one politely, by the end of its channel; a busy one by SIGKILL.

        Every waiting request is resolved.
        """
        process = self._process
        if process is not None and self.alive and not self._pending:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_SECONDS):
                    await process.wait()
        await self._end_now()
        for task in self._exchanges:
            task.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    def kill(self) -> None:
        """SIGKILL to the child and whatever it started; ``wait_ended`` tells when it is reaped."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait_ended(self) -> str:
        """Wait until the child is dead and reaped; how it ended, in words."""
        if self._life is not None:
            await asyncio.wait([self._life])
        return self._end

    async def idle(self) -> None:
        """Wait until every request is answered, also those that nobody waits for any more."""
        while self._exchanges:
            await asyncio.wait(self._exchanges)

    def rss_bytes(self) -> int:
        """The child's resident memory; 0 where that is unknown."""
        return 0 if self.pid is None else rss_bytes(self.pid)

    async def _in_turn(self, header: dict[str, Any], payload: bytes, timeout_seconds: float) -> Frame:
        async with self._turn:
            self._last_id += 1
            return await self._exchange(self._last_id, header, payload, timeout_seconds)

    async def _exchange(self, request_id: int, body: dict[str, Any], payload: bytes, timeout_seconds: float) -> Frame:
        process = self._process
        if process is None or process.stdin is None or not self.alive:
            raise WorkerDiedError(f"{self._name} {self._end}")
        loop = asyncio.get_running_loop()
        earlier = list(self._pending.values())
        reply = self._pending[request_id] = loop.create_future()
        # the init frame is its body alone; a broken pipe here is told by the life task, with the exit status
        message = {"id": request_id, "body": body} if request_id else body
        try:
            async with asyncio.timeout(None if earlier else timeout_seconds) as limit:
                with contextlib.suppress(ConnectionError):
                    await send(process.stdin, message, payload)
                for other in earlier:
                    await asyncio.wait((other, reply), return_when=asyncio.FIRST_COMPLETED)
                if earlier:
                    limit.reschedule(loop.time() + timeout_seconds)
                envelope, answer = await reply
        except TimeoutError as error:
            lost_requests = len(self._pending)
            await self._end_now()
            detail = f"{self._name} gave no answer within {timeout_seconds:g} s and was killed"
            raise WorkerDiedError(detail, timed_out=True, lost_requests=lost_requests) from error
        finally:
            self._pending.pop(request_id, None)
        if "error" in envelope:
            raise _error_from(envelope["error"], self._name)
        return envelope["body"], answer

    async def _live(self, process: asyncio.subprocess.Process) -> None:
        """Own the child until it is reaped: read its replies, pass on its stderr, resolve what is left."""
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("a child without pipes: this is a bug")
        voice = asyncio.create_task(_forward(process.stderr, self._name), name=f"{self._name} stderr")
        nonsense = ""
        try:
            while (frame := await receive(process.stdout)) is not None:
                waiting = self._pending.pop(frame[0].get("id", -1), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
            with contextlib.suppress(TimeoutError):  # it closed its side: let it end by itself and say how
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await process.wait()
        except (ChannelError, ConnectionError) as error:
            nonsense = f" after it broke the protocol ({error})"
        finally:
            self.kill()
            self._end = await self._reap(process) + nonsense
            await asyncio.wait(
                [voice], timeout=LAST_WORDS_SECONDS
            )  # its last words, before the error that they explain
            voice.cancel()
            await asyncio.wait([voice])
            lost_requests = len(self._pending)
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_exception(WorkerDiedError(f"{self._name} {self._end}", lost_requests=lost_requests))

    async def _reap(self, process: asyncio.subprocess.Process) -> str:
        try:
            async with asyncio.timeout(REAP_SECONDS):
                return _how(await process.wait())
        except TimeoutError:
            log.exception("worker not reaped name=%s pid=%d", self._name, process.pid)
            return f"was killed but the kernel has not let go of it for {REAP_SECONDS:g} s"

    async def _end_now(self) -> None:
        self.kill()
        await self.wait_ended()

    def _exchange_done(self, task: asyncio.Task[Frame]) -> None:
        self._exchanges.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may have been cancelled meanwhile


async def _forward(stderr: asyncio.StreamReader, name: str) -> None:
    """The child's stderr, line by line, into the log; overlong lines are cut."""
    rest = b""
    while data := await stderr.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[:LOG_LINE_BYTES]
        for line in lines:
            _say(name, line)
    _say(name, rest)


def _say(name: str, line: bytes) -> None:
    if line.strip():
        log.warning("worker says name=%s: %s", name, line[:LOG_LINE_BYTES].decode("utf-8", "replace").rstrip())


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"died of {signal.Signals(-returncode).name}"
    except ValueError:
        return f"died of signal {-returncode}"


def _error_from(error: dict[str, Any], name: str) -> ReasonedError:
    if error["kind"] == "fault":
        return WorkerFaultError(error["type"], f"{name} raised {error['type']}: {error['detail']}")
    reason, detail = Reason(error["reason"]), error["detail"]
    if error["retriable"]:
        return TransientError(reason, detail, retry_after_seconds=error["retry_after_seconds"])
    return _KINDS.get(error["kind"], EventError)(reason, detail)
