"""Frames over pipes: a JSON header and raw bytes behind it, both with bounds.

On the wire: a mark, the header's length, the payload's length, the header (orjson), the payload.
The parent's side is asynchronous (subprocess streams), the child's is plain blocking file reads.
"""

import asyncio
import struct
from typing import Any, BinaryIO

import orjson

Frame = tuple[dict[str, Any], bytes]

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024 * 1024
_MARK = b"EWf1"
_PREFIX = struct.Struct("<4sIQ")


class ChannelError(Exception):
    """What was read is not a frame, or what should be written is too large for one."""


def pack(header: dict[str, Any], payload: bytes = b"") -> tuple[bytes, bytes]:
    """A frame as (everything before the payload, payload), so that a large payload is not copied.

    Raises ChannelError above the bounds.
    """
    encoded = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    _check(len(encoded), len(payload))
    return _PREFIX.pack(_MARK, len(encoded), len(payload)) + encoded, payload


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame, blocking; None at the end of the stream. Raises ChannelError on anything else."""
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        return None
    header_bytes, payload_bytes = _unpack_prefix(prefix)
    header, payload = stream.read(header_bytes), stream.read(payload_bytes)
    if len(header) != header_bytes or len(payload) != payload_bytes:
        raise ChannelError("the stream ended inside a frame")
    return _decode(header), payload


def write_frame(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame, blocking."""
    for part in pack(header, payload):
        stream.write(part)
    stream.flush()


async def receive(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream. Raises ChannelError on anything else."""
    try:
        prefix = await reader.readexactly(_PREFIX.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ChannelError("the stream ended inside a frame") from error
        return None
    header_bytes, payload_bytes = _unpack_prefix(prefix)
    try:
        return _decode(await reader.readexactly(header_bytes)), await reader.readexactly(payload_bytes)
    except asyncio.IncompleteReadError as error:
        raise ChannelError("the stream ended inside a frame") from error


async def send(writer: asyncio.StreamWriter, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame. Raises ConnectionError where the reader is gone."""
    frame = pack(header, payload)
    try:
        writer.writelines(frame)
    except RuntimeError as error:  # so uvloop says that the pipe is closed already
        raise ConnectionResetError(str(error)) from error
    await writer.drain()


def _unpack_prefix(prefix: bytes) -> tuple[int, int]:
    if len(prefix) != _PREFIX.size or not prefix.startswith(_MARK):
        raise ChannelError(f"not a frame: it begins with {prefix[:16]!r}")
    _, header_bytes, payload_bytes = _PREFIX.unpack(prefix)
    _check(header_bytes, payload_bytes)
    return header_bytes, payload_bytes


def _check(header_bytes: int, payload_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise ChannelError(f"a frame of {header_bytes} + {payload_bytes} bytes is above the bounds")


def _decode(encoded: bytes) -> dict[str, Any]:
    try:
        header = orjson.loads(encoded)
    except orjson.JSONDecodeError as error:
        raise ChannelError(f"a frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ChannelError("a frame's header is not an object")
    return header
