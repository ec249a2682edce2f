"""Bad networks: a small proxy between the service and each broker, which knows whose connection is whose.

It reads the frames that clients send (length, API key, client id) and nothing more of Kafka's protocol. The brokers
advertise the proxy on a listener of their own, so that the service never finds a way around it, while the load and the
verifier do not pass through it.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Self

from compose.kafka_probe import free_ports
from compose.local_kafka import LocalKafka

END_TXN = 26
"""API key of the request that ends a transaction."""
LATENCY_SECONDS = 0.15
RESET_EVERY_SECONDS = 1.0
LATE_SECONDS = 7.0
"""How long an EndTxn lingers: longer than the transaction time-out, so that its sender has given it up meanwhile."""
GOODBYE_SECONDS = 5.0
_PIECE_BYTES = 64 * 1024

_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Weather(StrEnum):
    """What a process's connections suffer."""

    LATENCY = "latency"
    """Every request and every answer is late."""
    STALL = "stall"
    """Nothing flows, then everything does."""
    HALF_OPEN = "half-open"
    """Requests arrive, answers never; nobody hangs up. New connections are well."""
    RESET = "reset"
    """Connections are torn down again and again."""
    LATE_END_TXN = "late-end-txn"
    """Requests to end a transaction linger in the network, and arrive when their sender has long given up."""


class Link:
    """One connection of the service's to a broker."""

    def __init__(self, sky: "Sky", client: _Ends, broker: _Ends) -> None:
        self._sky = sky
        self._from_client, self._to_client = client
        self._from_broker, self._to_broker = broker
        self.client_id = ""
        self.deaf = False
        """The broker's answers are lost."""

    async def carry(self) -> None:
        """Return when the client has hung up and all that it said has arrived, or when the broker has hung up."""
        async with asyncio.TaskGroup() as pumps:
            up, down = pumps.create_task(self._up()), pumps.create_task(self._down())
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            if self.deaf:
                await up  # nobody hangs up on the client
            if up.done():
                # a reset would take back what the broker has not read yet
                self._to_broker.close()
                await asyncio.wait([down], timeout=GOODBYE_SECONDS)
            up.cancel()
            down.cancel()
        self.tear()

    def tear(self) -> None:
        """Reset both ends."""
        for end in (self._to_client, self._to_broker):
            if (socket_ := end.get_extra_info("socket")) is not None and not end.is_closing():
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    async def _up(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._from_client.readexactly(4)
                body = await self._from_client.readexactly(struct.unpack(">i", head)[0])
                self.client_id = client_id_of(body) or self.client_id
                await self._sky.delay(self.client_id, struct.unpack_from(">h", body)[0])
                self._to_broker.write(head + body)
                await self._to_broker.drain()

    async def _down(self) -> None:
        with suppress(OSError):
            while piece := await self._from_broker.read(_PIECE_BYTES):
                await self._sky.delay(self.client_id, None)
                if not self.deaf and not self._to_client.is_closing():
                    self._to_client.write(piece)
                    with suppress(OSError):
                        await self._to_client.drain()


def client_id_of(request: bytes) -> str:
    """The client id in a request's header; empty if it has none."""
    length = struct.unpack_from(">h", request, 8)[0]
    return request[10 : 10 + length].decode() if length > 0 else ""


class Sky:
    """All weather, by client id, and all links under it."""

    def __init__(self) -> None:
        self._weather: dict[str, set[Weather]] = {}
        self._stalled: dict[str, asyncio.Event] = {}
        self.links: set[Link] = set()

    async def delay(self, client_id: str, api_key: int | None) -> None:
        """As long as a request (or an answer: None) takes on its way."""
        weather = self._weather.get(client_id, ())
        if Weather.LATENCY in weather:
            await asyncio.sleep(LATENCY_SECONDS)
        if Weather.STALL in weather:
            await self._stalled[client_id].wait()
        if Weather.LATE_END_TXN in weather and api_key == END_TXN:
            await asyncio.sleep(LATE_SECONDS)

    def links_of(self, client_id: str) -> list[Link]:
        """A process's connections."""
        return [link for link in self.links if link.client_id == client_id]

    async def brew(self, client_id: str, weather: Weather, seconds: float) -> None:
        """Bad weather for so long."""
        current = self._weather.setdefault(client_id, set())
        current.add(weather)
        over = self._stalled.setdefault(client_id, asyncio.Event())
        over.clear()
        try:
            if weather is Weather.HALF_OPEN:
                for link in self.links_of(client_id):
                    link.deaf = True
            end = asyncio.get_running_loop().time() + seconds
            while (left := end - asyncio.get_running_loop().time()) > 0:
                if weather is Weather.RESET:
                    for link in self.links_of(client_id):
                        link.tear()
                await asyncio.sleep(min(left, RESET_EVERY_SECONDS))
        finally:
            current.discard(weather)
            if Weather.STALL not in current:
                over.set()


class Proxy:
    """Listens on one port for each broker; ``async with`` it."""

    def __init__(self, routes: Mapping[int, int]) -> None:
        """``routes``: own port → the broker's."""
        self._routes = dict(routes)
        self._servers: list[asyncio.Server] = []
        self.sky = Sky()

    async def __aenter__(self) -> Self:
        for port, broker in self._routes.items():
            self._servers.append(await asyncio.start_server(self._to(broker), "127.0.0.1", port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        links = set(self.sky.links)
        for link in links:
            link.deaf = False
            link.tear()
        async with asyncio.timeout(LATE_SECONDS + 5.0):
            while self.sky.links:  # noqa: ASYNC110 (their own tasks end them)
                await asyncio.sleep(0.01)

    def _to(self, broker: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                upstream = await asyncio.open_connection("127.0.0.1", broker)
            except OSError:
                writer.transport.abort()  # as if nobody listened
                return
            link = Link(self.sky, (reader, writer), upstream)
            self.sky.links.add(link)
            try:
                await link.carry()
            finally:
                self.sky.links.discard(link)

        return serve


class ProxiedKafka(LocalKafka):
    """A local Kafka with a second listener on each node, which advertises a port of the proxy's."""

    def __init__(self, data_dir: Path, nodes: int = 1) -> None:
        super().__init__(data_dir, nodes)
        self.routes: dict[int, int] = {}
        """The proxy's port → the node's."""

    @property
    def service_servers(self) -> str:
        """What the service is told: the proxy."""
        return ",".join(f"127.0.0.1:{port}" for port in self.routes)

    def _choose_ports(self) -> None:
        super()._choose_ports()
        taken, count = {port for node in self._nodes for port in (node.port, node.controller_port)}, len(self._nodes)
        ports = [port for port in free_ports(4 * count) if port not in taken]
        self.routes = dict(zip(ports[:count], ports[count : 2 * count], strict=True))
        for node, (advertised, own) in zip(self._nodes, self.routes.items(), strict=True):
            with node.properties.open("a", encoding="utf-8") as file:  # of two lines of a name the last one counts
                file.writelines(f"{line}\n" for line in _listeners(node.port, node.controller_port, own, advertised))


def _listeners(port: int, controller_port: int, own: int, advertised: int) -> Sequence[str]:
    host = "127.0.0.1"
    return (
        f"listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{own},CONTROLLER://{host}:{controller_port}",
        f"advertised.listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{advertised}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name=PLAINTEXT",
    )
