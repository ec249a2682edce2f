"""What the HTTP port answers: the live page and its events, ``/metrics``, ``/livez``, ``/readyz``, ``/version``."""

import asyncio
import platform
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from hmac import compare_digest
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumer.core.tally import Tally
from consumer.status.snapshot import VERSION, snapshot
from consumer.status.vitals import Vitals
from schemas.codes import SCHEMA_VERSION

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_OPEN = ("/livez", "/readyz")
"""A supervisor asks them, and knows no token."""
_EVERY_SECONDS = 1.0
_STREAM = "text/event-stream"
_STREAMS_AT_MOST = 32
"""Pages that look at once; half of the port's connections are left for those who ask whether the service lives."""
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def make_app(
    vitals: Vitals, tally: Tally, registry: CollectorRegistry, stopping: asyncio.Event, token: str | None
) -> Starlette:
    """The application; event streams end once ``stopping`` is set."""
    streams = asyncio.Semaphore(_STREAMS_AT_MOST)

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")  # the event loop turns: that is all that it says

    async def readyz(_: Request) -> Response:
        return PlainTextResponse(f"{vitals.state}\n", 200 if vitals.ready else 503)

    async def version(_: Request) -> Response:
        told = {"name": "earwitness", "version": VERSION, "schema_version": SCHEMA_VERSION}
        return JSONResponse({**told, "python": platform.python_version()})

    async def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        # hundreds of series: not on the event loop
        return Response(await asyncio.to_thread(encode, registry), headers={"content-type": media_type})

    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=_STREAM)  # a body that nobody reads would never end
        if streams.locked():
            return PlainTextResponse("too many pages look already\n", 503)
        return StreamingResponse(_snapshots(vitals, tally, stopping, streams), media_type=_STREAM)

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/version", version),
        Route("/metrics", metrics),
        Route("/events", events),
        *(Route(path, _file(name, media_type)) for path, (name, media_type) in _FILES.items()),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Guard, token=token)])


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_PAGE / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


async def _snapshots(
    vitals: Vitals, tally: Tally, stopping: asyncio.Event, streams: asyncio.Semaphore
) -> AsyncIterator[bytes]:
    async with streams:
        while not stopping.is_set():
            yield b"data: " + orjson.dumps(snapshot(vitals, tally)) + b"\n\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_SECONDS):
                    await stopping.wait()


class _Guard:
    """Demands the token, and adds the headers that keep a browser from doing more than the page needs."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if self._token is None or scope["path"] in _OPEN or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send_guarded)
            return
        refusal = PlainTextResponse("a token is needed\n", 401, {"www-authenticate": 'Basic realm="earwitness"'})
        await refusal(scope, receive, send_guarded)

    def _knows(self, headers: Headers) -> bool:
        """A bearer token; or, since a browser can send none, the token as the password of any user."""
        assert self._token is not None
        kind, _, said = headers.get("authorization", "").partition(" ")
        given = said.encode("latin-1")  # the bytes of the header
        if kind.lower() == "basic":
            try:
                given = b64decode(given, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            return False
        return compare_digest(given, self._token.encode())
