"""The text that goes with a committed offset: which commit it was, how the lane ended, and what is settled above.

``1.<commit number>.<owner>.<c|o>.<suspicion>.<r|b>.<settled>``: version 1; whose commit; closed in order or open;
deaths, end of suspects, end of those to be tried alone, event tried alone, how often it killed, end of what is on
trial; settled ranges as run lengths or as bits (the smaller), in base64. Kafka allows 4096 bytes.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from itertools import chain, pairwise

from consumer.core.offsets import CommitPoint
from consumer.core.suspicion import NO_SUSPICION, Suspicion
from consumer.errors import LaneError

VERSION = "1"
METADATA_BYTES_LIMIT = 4096
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CommitMetadata:
    """What a lane tells its next owner besides the offset."""

    commit_number: int = 0
    """Grows by one with each commit of the lane, since consecutive commits may share one offset."""
    owner: str = ""
    """A random name for each ownership: two owners in turn may use the same number."""
    clean: bool = False
    suspicion: Suspicion = NO_SUSPICION
    settled: Ranges = ()


class UnreadableMetadataError(ValueError):
    """Metadata of another version, or damaged."""


def encode(
    point: CommitPoint, *, commit_number: int, owner: str, clean: bool, suspicion: Suspicion = NO_SUSPICION
) -> str:
    """Metadata for a commit at ``point.offset``. Raises LaneError rather than exceed Kafka's limit."""
    kind, data = "r", _as_runs(point.offset, point.settled)
    span_bytes = (point.settled[-1][1] - point.offset + 7) // 8 if point.settled else 0
    if span_bytes < len(data):  # else the bits may be as wide as the log
        kind, data = "b", _as_bits(point.offset, point.settled)
    packed = urlsafe_b64encode(data).decode("ascii").rstrip("=")
    said = _suspicion_as_text(suspicion)
    text = f"{VERSION}.{commit_number}.{owner}.{'c' if clean else 'o'}.{said}.{kind}.{packed}"
    if len(text) > METADATA_BYTES_LIMIT:
        raise LaneError(f"the settled offsets take {len(text)} bytes of metadata; intake should have paused. A bug.")
    return text


def decode(text: str, offset: int) -> CommitMetadata:
    """Read metadata back; the empty text (offsets set by Kafka's own tools) is a fresh start.

    Raises UnreadableMetadataError; the caller reports it and goes on with what is committed: work may be repeated,
    nothing is lost.
    """
    if not text:
        return CommitMetadata()
    try:
        version, number, owner, state, said, kind, packed = text.split(".")
        if version != VERSION or state not in "co" or kind not in "rb":
            raise UnreadableMetadataError(text[:80])
        data = urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        settled = _from_runs(offset, data) if kind == "r" else _from_bits(offset, data)
        suspicion = _suspicion_from_text(said)
        return CommitMetadata(int(number), owner, state == "c", suspicion, settled)
    except (ValueError, TypeError, IndexError, binascii.Error) as error:
        raise UnreadableMetadataError(text[:80]) from error


def _suspicion_as_text(suspicion: Suspicion) -> str:
    if not suspicion.deaths:
        return "0"
    tried = f"{suspicion.tried}:{suspicion.tries}:{suspicion.trial_end}"
    return f"{suspicion.deaths}:{suspicion.until}:{suspicion.alone_until}:{tried}"


def _suspicion_from_text(text: str) -> Suspicion:
    if text == "0":
        return NO_SUSPICION
    deaths, until, alone_until, tried, tries, trial_end = map(int, text.split(":"))
    return Suspicion(deaths, until, alone_until, tried, tries, trial_end)


def _as_runs(offset: int, settled: Ranges) -> bytes:
    edges = [offset, *chain.from_iterable(settled)]
    return b"".join(_varint(edge - before) for before, edge in pairwise(edges))


def _from_runs(offset: int, data: bytes) -> Ranges:
    edges: list[int] = []
    position, at = offset, 0
    while at < len(data):
        step, at = _read_varint(data, at)
        position += step
        edges.append(position)
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _as_bits(offset: int, settled: Ranges) -> bytes:
    bits = 0
    for start, stop in settled:
        bits |= ((1 << (stop - start)) - 1) << (start - offset)
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _from_bits(offset: int, data: bytes) -> Ranges:
    ranges: list[tuple[int, int]] = []
    bits, at = int.from_bytes(data, "little"), offset
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        ranges.append((at + zeros, at + zeros + ones))
        bits >>= ones
        at += zeros + ones
    return tuple(ranges)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | data[at] << shift, at + 1
