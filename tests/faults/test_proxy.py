"""Bad weather is what it says, and only for whom it is meant: checked on frames that only look like Kafka's."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from compose.kafka_probe import free_ports
from tests.faults import proxy
from tests.faults.proxy import END_TXN, Proxy, Weather

FETCH = 1


class Echo:
    """Answers each frame with itself, and remembers what arrived."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.more = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                self.heard.append(head + await reader.readexactly(struct.unpack(">i", head)[0]))
                self.more.set()
                writer.write(self.heard[-1])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def frame(client_id: str, api_key: int = FETCH) -> bytes:
    body = struct.pack(">hhih", api_key, 0, 1, len(client_id)) + client_id.encode()
    return struct.pack(">i", len(body)) + body


class Client:
    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self.reader = reader
        self.writer = writer

    async def ask(self, api_key: int = FETCH) -> bytes:
        sent = frame(self.name, api_key)
        self.writer.write(sent)
        async with asyncio.timeout(10):
            return await self.reader.readexactly(len(sent))


@asynccontextmanager
async def scene() -> AsyncIterator[tuple[Proxy, Echo, Client, Client]]:
    """A proxy, what is behind it, and two clients that have been heard."""
    port, behind = free_ports(2)
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", behind)
    async with server, Proxy({port: behind}) as one:
        clients = [Client(name, *await asyncio.open_connection("127.0.0.1", port)) for name in ("one", "other")]
        for client in clients:
            await client.ask()
        yield one, echo, clients[0], clients[1]
        for client in clients:
            client.writer.close()


async def test_in_a_half_open_connection_requests_arrive_and_answers_never() -> None:
    async with scene() as (one, echo, client, other):
        await one.sky.brew("one", Weather.HALF_OPEN, 0.0)
        echo.more.clear()
        asking = asyncio.create_task(client.ask())
        async with asyncio.timeout(10):
            await echo.more.wait()
        await other.ask()

        assert not asking.done()
        asking.cancel()


async def test_a_stall_ends_with_everything_that_was_held_back() -> None:
    async with scene() as (one, _, client, other):
        weather = asyncio.create_task(one.sky.brew("one", Weather.STALL, 0.5))
        await asyncio.sleep(0)
        asking = asyncio.create_task(client.ask())
        await other.ask()

        assert not asking.done()
        await weather
        assert await asking == frame("one")


async def test_a_reset_tears_the_connections_of_one_process_down() -> None:
    async with scene() as (one, _, client, other):
        await one.sky.brew("one", Weather.RESET, 0.05)

        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.ask()
        await other.ask()


async def test_a_late_end_of_a_transaction_arrives_though_its_sender_has_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "LATE_SECONDS", 0.3)
    async with scene() as (one, echo, client, other):
        weather = asyncio.create_task(one.sky.brew("one", Weather.LATE_END_TXN, 0.1))
        await asyncio.sleep(0)
        await client.ask()  # nothing else is late
        client.writer.write(frame("one", END_TXN))
        await client.writer.drain()
        client.writer.close()
        await other.ask()
        echo.more.clear()

        assert frame("one", END_TXN) not in echo.heard
        async with asyncio.timeout(10):
            await echo.more.wait()
        assert echo.heard[-1] == frame("one", END_TXN)
        await weather
