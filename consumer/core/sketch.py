"""Quantiles of many values in little memory; pure.

Counts in buckets whose bounds grow by a constant factor, so that any quantile is within ``RELATIVE_ERROR`` of a value
that was added, and two sketches add up to the sketch of all values. Source: Masson, Rim and Lee, "DDSketch: a fast
and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019, without its limit on buckets: between
the bounds here there are at most 1,400.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from math import ceil, log

RELATIVE_ERROR = 0.01
SMALLEST, LARGEST = 1e-4, 1e8
"""What is smaller counts as 0, what is larger as this: a tenth of a millisecond, and three years, in seconds."""

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = log(_GAMMA)


def nearest_rank(share: float, count: int) -> int:
    """Where in their order, from 0, the smallest of ``count`` values lies that such a share of them do not exceed."""
    return max(1, ceil(share * count)) - 1


@dataclass(slots=True)
class Sketch:
    """Of values that are at least 0."""

    count: int = 0
    total: float = 0.0
    buckets: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Bucket ``i`` holds the values above ``gamma ** (i - 1)`` and up to ``gamma ** i``."""
    zeros: int = 0

    def add(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        self.total += value
        if value < SMALLEST:
            self.zeros += 1
        else:
            self.buckets[ceil(log(min(value, LARGEST)) / _LOG_GAMMA)] += 1

    def merge(self, other: "Sketch") -> None:
        """Count all of the other's values too."""
        self.count += other.count
        self.total += other.total
        self.zeros += other.zeros
        for bucket, count in other.buckets.items():
            self.buckets[bucket] += count

    @property
    def mean(self) -> float | None:
        """Exact; None without a value."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The smallest value that such a share of them do not exceed; None without a value."""
        if not self.count:
            return None
        left = nearest_rank(share, self.count) - self.zeros
        if left < 0:
            return 0.0
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left < 0:
                # the point of the bucket that is as far from either end, relatively
                return float(2 * _GAMMA**bucket / (_GAMMA + 1))
        raise AssertionError("the buckets hold fewer values than were counted: this is a bug")
