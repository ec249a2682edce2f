"""A web server on loopback that can also misbehave: each path has a handler that writes what it likes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> Handler:
    """An ordinary answer; header names with underscores for dashes."""

    async def write(writer: asyncio.StreamWriter) -> None:
        lines = {"content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)
        await writer.drain()

    return write


def endless(head: bytes, *, pause_seconds: float = 0.0) -> Handler:
    """A body without an end, as fast as the client takes it or with pauses."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"\0" * 65536 if not pause_seconds else b"\0")
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return write


class Web:
    """``url(path)`` addresses a handler; ``asked`` is every request line that arrived."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.asked: list[str] = []
        self.port = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, path: str, handler: Handler) -> str:
        self.handlers[path] = handler
        return f"{self.origin}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line = head.split("\r\n")[0]
            self.asked.append(line)
            await self.handlers[line.split()[1].partition("?")[0]](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has left
        finally:
            writer.close()


@asynccontextmanager
async def web_server() -> AsyncIterator[Web]:
    """Serve for the length of the block."""
    web = Web()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(web.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
