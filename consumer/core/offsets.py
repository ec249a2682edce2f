"""Which offsets of a partition are settled, when they finish in any order.

The committed offset is the lowest unsettled one; what is settled above it travels in the commit metadata, so that
after a crash exactly those are skipped. Only offsets that were given are tracked: transaction markers and compaction
leave gaps, and since records are given in order, a gap once passed is never filled. So a gap counts as settled.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

SETTLED_BYTES_LIMIT = 2000
"""What the settled offsets may take before base64 and the other fields bring them to Kafka's 4096 bytes of metadata;
one byte more fails the commit and ends aiokafka's sender. 2000 bytes are 2668 in base64: room for a careful third."""
_RUN_BYTES = 10
"""Two varints of at most five bytes: what one unsettled offset can cost at worst."""


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """What a commit says: everything below ``offset`` is settled, and so are the half-open ``settled`` ranges."""

    offset: int
    settled: tuple[tuple[int, int], ...] = ()


class OffsetMap:
    """The offsets of one lane from the committed one upwards."""

    def __init__(self, start: CommitPoint) -> None:
        self._open: dict[int, None] = {}  # insertion order is offset order, since records are given in order
        self._next = start.offset
        self._restored = deque(start.settled)
        self._settled_end = max((stop for _, stop in self._restored), default=start.offset)
        edges = chain((start.offset,), chain.from_iterable(self._restored))
        self._restored_bytes = sum(max(1, -(-(b - a).bit_length() // 7)) for a, b in pairwise(edges))

    @property
    def next_offset(self) -> int:
        """One above the highest offset that was given or passed: where a kept lane goes on reading."""
        return self._next

    @property
    def unsettled(self) -> int:
        """How many given offsets have no outcome yet."""
        return len(self._open)

    def give(self, offset: int) -> bool:
        """Take note of a record; False means that it is tracked or settled already and must be left alone."""
        if offset < self._next:
            return False
        self.advance(offset + 1)
        while self._restored and self._restored[0][1] <= offset:
            self._restored.popleft()  # behind what is given now: a gap like any other
        if self._restored and self._restored[0][0] <= offset:
            return False
        self._open[offset] = None
        return True

    def advance(self, position: int) -> None:
        """The consumer stands at ``position``: nothing below it will be given any more."""
        self._next = max(self._next, position)

    def settle(self, offset: int) -> None:
        """An outcome of this offset is about to be committed."""
        del self._open[offset]

    def has_room(self) -> bool:
        """Whether one more offset can be given and every later commit still fits, in whatever order things settle.

        One is always given when none is open: what was restored fitted before.
        """
        if not self._open:
            return True
        bits = (max(self._next, self._settled_end) - next(iter(self._open))) // 8 + 1
        runs = (len(self._open) + 1) * _RUN_BYTES + (self._restored_bytes if self._restored else 0)
        return min(bits, runs) <= SETTLED_BYTES_LIMIT

    def commit_point(self) -> CommitPoint:
        """The present truth as a commit says it."""
        while self._restored and self._restored[0][1] <= self._next:
            self._restored.popleft()
        if not self._open:
            return CommitPoint(*self._past_settled(self._next))
        return CommitPoint(next(iter(self._open)), tuple(self._settled_ranges()))

    def _past_settled(self, offset: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        ahead = deque((max(start, offset), stop) for start, stop in self._restored)
        while ahead and ahead[0][0] == offset:
            offset = ahead.popleft()[1]
        return offset, tuple(ahead)

    def _settled_ranges(self) -> Iterator[tuple[int, int]]:
        previous: int | None = None
        for offset in self._open:
            if previous is not None and offset > previous + 1:
                yield previous + 1, offset
            previous = offset
        assert previous is not None
        start, *rest = _join([(previous + 1, self._next), *((max(a, self._next), b) for a, b in self._restored)])
        if start[1] > start[0]:
            yield start
        yield from rest


def _join(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
