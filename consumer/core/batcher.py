"""Which chunks go through a model together: chunks of several recordings, of about one length, soon.

Pure: the moment is passed in, in seconds. The dispatcher around it owns the tasks and the timers.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

_LENGTH_SLACK = 1e-9
"""So that a length on a bucket's edge stays below it whatever the rounding."""


BUCKET_SECONDS = 1.0
"""Width of a length bucket: narrower pads less, wider fills sooner. 1 s pads 7 % of a usual mix."""
FINE_BUCKETS, FINER = 4, 3
"""The first four are three each: a second is much of a short recording (prompts of 1.5 s would be padded by 27 %)."""


class Closed(StrEnum):
    """Why a batch was closed."""

    SIZE = "size"
    """As many chunks as a batch may hold."""
    BUDGET = "budget"
    """The next chunk would have gone over the padded audio of a batch."""
    DEADLINE = "deadline"
    """Its oldest chunk had waited long enough for company."""
    DRAIN = "drain"
    """Nothing more is coming."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds a batch, and the queue before it."""

    padded_seconds: float
    """Longest chunk times chunks, at most; a single chunk may be longer."""
    max_chunks: int
    max_wait_seconds: float
    """How long the oldest chunk of a bucket waits for company."""
    queue_seconds: float
    """Audio that may wait; the batcher says when it is full, the dispatcher makes submitters wait."""
    bucket_seconds: float = BUCKET_SECONDS
    window_seconds: float | None = None
    """A model that always computes a full window (Whisper): every chunk costs this much, and there is one bucket."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """A chunk in the queue."""

    item: T
    audio_seconds: float
    cost_seconds: float
    """What the model computes for it alone: its length, or a full window."""
    critical: bool
    arrived: float


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Chunks that go through a model together, critical ones first, then the oldest first."""

    members: tuple[Waiting[T], ...]
    closed: Closed

    @property
    def items(self) -> list[T]:
        return [member.item for member in self.members]

    @property
    def audio_seconds(self) -> float:
        return sum(member.audio_seconds for member in self.members)

    @property
    def padded_seconds(self) -> float:
        """What the model computes: every chunk as long as the longest."""
        return len(self.members) * max(member.cost_seconds for member in self.members)


class _Bucket(Generic[T]):
    """Chunks of about one length: the critical ones and the others, each oldest first."""

    def __init__(self) -> None:
        self.critical: deque[Waiting[T]] = deque()
        self.usual: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self.critical) + len(self.usual)

    def __iter__(self) -> Iterator[Waiting[T]]:
        yield from self.critical
        yield from self.usual

    def queue(self, critical: bool) -> deque[Waiting[T]]:
        return self.critical if critical else self.usual

    @property
    def oldest(self) -> float:
        return min(queue[0].arrived for queue in (self.critical, self.usual) if queue)


def bucket_of(audio_seconds: float, bucket_seconds: float) -> int:
    """The number of the length bucket, from 1: longer chunks have higher ones."""
    widths = audio_seconds / bucket_seconds
    if widths <= FINE_BUCKETS:
        return math.ceil(widths * FINER - _LENGTH_SLACK)
    return math.ceil(widths - _LENGTH_SLACK) + FINE_BUCKETS * (FINER - 1)


class Batcher(Generic[T]):
    """Length buckets, a budget of padded audio, a deadline for the oldest chunk, critical chunks first, bounded.

    ``dropped(item)`` is asked while a batch is built: an item that nobody waits for any more takes no place in it.
    """

    def __init__(self, limits: BatchLimits, dropped: Callable[[T], bool] = lambda _: False) -> None:
        self._limits = limits
        self._dropped = dropped
        self._buckets: dict[int, _Bucket[T]] = {}
        self._draining = False
        self.queued_audio_seconds = 0.0
        self.closed: Counter[Closed] = Counter()
        """How many batches were closed for each reason."""

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    @property
    def full(self) -> bool:
        """The queue holds its audio; a chunk that is added nevertheless is kept."""
        return self.queued_audio_seconds >= self._limits.queue_seconds

    @property
    def saturated(self) -> bool:
        """Some bucket has a batch that nothing more would fit into."""
        return any(self._fit(bucket)[1] is not Closed.DEADLINE for bucket in self._buckets.values())

    def add(self, item: T, audio_seconds: float, *, critical: bool, now: float) -> None:
        """Queue a chunk. ``now`` must not run backwards between calls."""
        window = self._limits.window_seconds
        waiting = Waiting(item, audio_seconds, window or audio_seconds, critical, now)
        edge = 0 if window else bucket_of(audio_seconds, self._limits.bucket_seconds)
        self._buckets.setdefault(edge, _Bucket()).queue(critical).append(waiting)
        self.queued_audio_seconds += audio_seconds

    def promote(self, item: T) -> None:
        """The item has become critical; nothing happens if it does not wait here as a usual one."""
        for bucket in self._buckets.values():
            if (found := next((waiting for waiting in bucket.usual if waiting.item is item), None)) is not None:
                bucket.usual.remove(found)
                older = sum(waiting.arrived <= found.arrived for waiting in bucket.critical)
                bucket.critical.insert(older, replace(found, critical=True))

    def drain(self) -> None:
        """Nothing more is coming: what waits is due at once."""
        self._draining = True

    def take(self, now: float) -> Batch[T] | None:
        """The batch that is due now: of the due buckets, one with critical chunks first, then the longest waiting."""
        self._forget_dropped()
        due = [(edge, bucket) for edge, bucket in self._buckets.items() if self._due_at(bucket) <= now]
        if not due:
            return None
        edge, bucket = min(due, key=lambda entry: (not entry[1].critical, entry[1].oldest, entry[0]))
        count, reason = self._fit(bucket)
        members = tuple((bucket.critical or bucket.usual).popleft() for _ in range(count))
        if not bucket:
            del self._buckets[edge]
        self._left(members)
        batch = Batch(members, reason)
        self.closed[reason] += 1
        return batch

    def next_due(self, now: float) -> float | None:
        """When ``take`` will have a batch if nothing is added: ``now`` or later; None while nothing waits."""
        self._forget_dropped()
        if not self._buckets:
            return None
        return max(now, min(self._due_at(bucket) for bucket in self._buckets.values()))

    def _due_at(self, bucket: _Bucket[T]) -> float:
        _, reason = self._fit(bucket)
        return bucket.oldest + self._limits.max_wait_seconds if reason is Closed.DEADLINE else -math.inf

    def _fit(self, bucket: _Bucket[T]) -> tuple[int, Closed]:
        """How many chunks from the bucket's front fill a batch, and what stops it there."""
        longest, count = 0.0, 0
        for waiting in bucket:
            if count == self._limits.max_chunks:
                return count, Closed.SIZE
            longest = max(longest, waiting.cost_seconds)
            if count and longest * (count + 1) > self._limits.padded_seconds:
                return count, Closed.BUDGET
            count += 1
        if count == self._limits.max_chunks:
            return count, Closed.SIZE
        if longest * (count + 1) > self._limits.padded_seconds:
            return count, Closed.BUDGET  # not even one more of this length would fit: no use in waiting
        return count, Closed.DRAIN if self._draining else Closed.DEADLINE

    def _forget_dropped(self) -> None:
        # Only what could enter a batch is looked at: a call costs the same however long the queue is.
        for edge, bucket in list(self._buckets.items()):
            front = islice(bucket, self._limits.max_chunks + 1)
            if not any(self._dropped(waiting.item) for waiting in front):
                continue
            gone = [waiting for waiting in bucket if self._dropped(waiting.item)]
            bucket.critical = deque(waiting for waiting in bucket.critical if not self._dropped(waiting.item))
            bucket.usual = deque(waiting for waiting in bucket.usual if not self._dropped(waiting.item))
            if not bucket:
                del self._buckets[edge]
            self._left(gone)

    def _left(self, members: list[Waiting[T]] | tuple[Waiting[T], ...]) -> None:
        self.queued_audio_seconds -= sum(member.audio_seconds for member in members)
        if not self._buckets:
            self.queued_audio_seconds = 0.0  # rounding must not pile up over the years
