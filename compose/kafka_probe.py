"""Asks the kernel for ports and a broker for its cluster, with nothing but sockets."""

import random
import socket
import struct
from pathlib import Path

ASK_SECONDS = 2.0
_METADATA_REQUEST = 3
_METADATA_VERSION = 4
"""The oldest that Kafka 4 speaks."""


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, below those that the kernel gives to outgoing connections.

    A port among those could be taken by a client while its broker is down, even by a client that connects to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    found: list[int] = []
    for port in random.sample(range(10_000, lowest), lowest - 10_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} free ports on loopback")


def live_brokers(port: int) -> set[int]:
    """The node ids that the broker on this port knows as alive; empty while it does not answer."""
    body = struct.pack(">hhih", _METADATA_REQUEST, _METADATA_VERSION, 1, -1)  # correlation id 1, no client id
    body += struct.pack(">ib", 0, 0)  # no topics, and create none
    try:
        with socket.create_connection(("127.0.0.1", port), ASK_SECONDS) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            size = struct.unpack(">i", _read(connection, 4))[0]
            return _broker_ids(_read(connection, size))
    except OSError:
        return set()


def _broker_ids(answer: bytes) -> set[int]:
    _correlation, _throttle_ms, count = struct.unpack_from(">iii", answer)
    place, found = 12, set()
    for _ in range(count):
        node_id, host_length = struct.unpack_from(">ih", answer, place)
        place += 6 + host_length + 4  # the host's name, the port
        rack_length = struct.unpack_from(">h", answer, place)[0]
        place += 2 + max(0, rack_length)
        found.add(node_id)
    return found


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the broker hung up")
        data += piece
    return data
