"""The HTTP port: uvicorn inside the service's own event loop, begun before everything else and ended after it."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from consumer.errors import ServiceError

log = logging.getLogger(__name__)

_CONNECTIONS = 64
"""Open at once at most; an event stream is one."""


@asynccontextmanager
async def listening(app: ASGIApp, host: str, port: int, stopping: asyncio.Event) -> AsyncIterator[None]:
    """Serve for the length of the block; sets ``stopping`` at its end, so that streams end too.

    Raises ServiceError if the address cannot be had.
    """
    listener = _listener(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        interface="asgi3",
        ws="none",
        http="h11",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]), name="http")
        log.info("http_listening on %s port %d", host, listener.getsockname()[1])
        try:
            yield
        finally:
            stopping.set()
            server.should_exit = True
            await asyncio.wait([serving])


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServiceError(f"cannot listen on {host} port {port} ({error}): change http_host or http_port") from error


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the service's."""
        yield
