"""A transcription API on a loopback port that does what a script says: the openai SDK talks to it for real.

``async with ScriptedApi() as api`` in a test; ``python -m tests.support.scripted_api`` on its own.
"""

import argparse
import asyncio
import io
import json
import socket
import sys
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import soundfile as sf
import uvicorn
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the server saw it."""

    at: float
    """``time.monotonic()`` when its head had been read."""
    samples: Samples
    fields: dict[str, str]
    authorization: str
    filename: str
    content_type: str
    upload_bytes: int

    @property
    def audio_seconds(self) -> float:
        return len(self.samples) / 16_000


Recogniser = Callable[[Call], Awaitable[str]]


async def text_of_audio(call: Call) -> str:
    """The default recogniser: words that differ with the audio."""
    return f"heard {call.audio_seconds:.2f} seconds {checksum(call.samples):08x}"


def checksum(samples: Samples) -> int:
    """Of the samples in 16 bit, as they arrive."""
    return zlib.crc32(np.round(samples * 32768.0).astype("<i2").tobytes())


@dataclass(frozen=True, slots=True)
class Reply:
    """What to do with one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    body: str | None = None
    """Sent as it is, instead of JSON."""
    media_type: str = "application/json"
    then: str = ""
    """``hang``: never answer. ``reset``: tear the connection down."""
    usage: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Added to a good answer."""


def ok(*, usage: dict[str, Any] | None = None, **extra: Any) -> Reply:
    return Reply(usage=usage, extra=extra)


def failed(
    status: int, message: str = "something broke", *, headers: dict[str, str] | None = None, **error: Any
) -> Reply:
    return Reply(status, headers or {}, {"message": message, "type": "server_error", "code": None, **error})


def too_fast(**headers: str) -> Reply:
    """A rate 429; ``too_fast(retry_after_ms="50")``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failed(429, "Rate limit reached", headers=named, type="requests", code="rate_limit_exceeded")


def out_of_money(code: str = "insufficient_quota", kind: str = "insufficient_quota") -> Reply:
    return failed(429, "You exceeded your current quota", type=kind, code=code)


def hang() -> Reply:
    return Reply(then="hang")


def reset() -> Reply:
    return Reply(then="reset")


def html() -> Reply:
    return Reply(body="<html><body>Welcome to nginx!</body></html>", media_type="text/html")


def truncated() -> Reply:
    return Reply(body='{"text": "half a sen')


Script = Iterable[Reply] | Callable[[Call], Reply | None]


class ScriptedApi:
    """The server. ``script``: replies for the next requests in order, then good answers; or a function of the call."""

    def __init__(self, script: Script = (), *, recogniser: Recogniser = text_of_audio, port: int = 0) -> None:
        self._decide: Callable[[Call], Reply | None] | None = script if callable(script) else None
        self._queue: deque[Reply] = deque() if callable(script) else deque(script)
        self._recogniser = recogniser
        self._port = port
        self._released = asyncio.Event()
        self._seen = asyncio.Condition()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.calls: list[Call] = []
        self.open_now = 0
        self.open_peak = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def audio_seconds(self) -> float:
        return sum(call.audio_seconds for call in self.calls)

    def script(self, *replies: Reply) -> None:
        """Do this with the next requests."""
        self._queue.extend(replies)

    def always(self, decide: Callable[[Call], Reply | None] | None) -> None:
        """Ask ``decide`` about every request that the list of replies leaves; None from it: a good answer."""
        self._decide = decide

    def release(self) -> None:
        """Let hanging requests go (they are torn down)."""
        self._released.set()

    async def until_calls(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(60), self._seen:
            await self._seen.wait_for(lambda: len(self.calls) >= count)

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._answer,
            log_level="error",
            lifespan="off",
            interface="asgi3",
            ws="none",
            http="h11",
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        at = time.monotonic()
        request = Request(scope, receive)
        if scope["path"] != "/v1/audio/transcriptions" or scope["method"] != "POST":
            await JSONResponse({"error": {"message": "no such place"}}, 404)(scope, receive, send)
            return
        self.open_now += 1
        self.open_peak = max(self.open_peak, self.open_now)
        try:
            try:
                call = await _read(request, at)
            except ClientDisconnect:
                return  # the caller was killed in mid-sentence
            async with self._seen:
                self.calls.append(call)
                self._seen.notify_all()
            response = await self._reply(self._next(call), call, receive)
            if response is None:
                _transport(send).abort()
            else:
                await response(scope, receive, send)
        finally:
            self.open_now -= 1

    def _next(self, call: Call) -> Reply:
        if self._queue:
            return self._queue.popleft()
        return (self._decide(call) if self._decide is not None else None) or Reply()

    async def _reply(self, reply: Reply, call: Call, receive: Receive) -> Response | None:
        if reply.then == "hang":
            await self._until_released_or_gone(receive)
        if reply.then:
            return None
        if reply.error is not None:
            return JSONResponse({"error": reply.error}, reply.status, reply.headers)
        if reply.body is not None:
            kind = HTMLResponse if reply.media_type == "text/html" else Response
            return kind(reply.body, reply.status, reply.headers, reply.media_type)
        answer = {"text": await self._recogniser(call), **reply.extra}
        if call.fields.get("response_format") == "verbose_json" and "segments" not in answer:
            answer |= _verbose(answer["text"], call.audio_seconds)
        if reply.usage is not None:
            answer["usage"] = reply.usage
        return JSONResponse(answer, reply.status, reply.headers)

    async def _until_released_or_gone(self, receive: Receive) -> None:
        waits = [asyncio.create_task(self._released.wait()), asyncio.ensure_future(receive())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """The tests' own signal handlers stay in place."""
        from contextlib import nullcontext

        return nullcontext()


async def _read(request: Request, at: float) -> Call:
    async with request.form(max_part_size=64 * 1024 * 1024) as form:
        upload = form["file"]
        assert isinstance(upload, UploadFile)
        body = await upload.read()
    samples, rate = await asyncio.to_thread(sf.read, io.BytesIO(body), dtype="float32")
    assert rate == 16_000
    fields: dict[str, str] = {name: value for name, value in form.items() if isinstance(value, str)}
    return Call(
        at=at,
        samples=samples,
        fields=fields,
        authorization=request.headers.get("authorization", ""),
        filename=upload.filename or "",
        content_type=upload.content_type or "",
        upload_bytes=len(body),
    )


def _transport(send: Send) -> asyncio.Transport:
    cycle = send.__self__  # type: ignore[attr-defined] # uvicorn's request cycle: ASGI has no word for a reset
    transport: asyncio.Transport = cycle.transport
    return transport


def _verbose(text: str, audio_seconds: float) -> dict[str, Any]:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": audio_seconds,
        "text": f" {text}",
        "tokens": [1, 2, 3, 4],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.2,
        "no_speech_prob": 0.01,
    }
    return {"duration": audio_seconds, "language": "english", "segments": [segment]}


def whisper_recogniser() -> Recogniser:
    """Whisper tiny.en for real, in a thread."""
    from faster_whisper import WhisperModel

    from tests.support.whisper_weights import ct2_tiny_en

    model = WhisperModel(str(ct2_tiny_en()), device="cpu", compute_type="int8", cpu_threads=1)

    def hear(samples: Samples) -> str:
        segments, _ = model.transcribe(samples, language="en", beam_size=1)
        return " ".join(segment.text.strip() for segment in segments)

    async def recognise(call: Call) -> str:
        return await asyncio.to_thread(hear, call.samples)

    return recognise


async def _serve(port: int, *, real: bool) -> None:
    recogniser = await asyncio.to_thread(whisper_recogniser) if real else text_of_audio
    async with ScriptedApi(recogniser=recogniser, port=port) as api:
        sys.stdout.write(json.dumps({"base_url": api.base_url}) + "\n")
        sys.stdout.flush()
        assert api._serving is not None
        await api._serving


def main() -> None:
    parser = argparse.ArgumentParser(description="A transcription API on loopback; prints its address as JSON.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--whisper", action="store_true", help="recognise with Whisper tiny.en instead of a checksum")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(arguments.port, real=arguments.whisper))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
