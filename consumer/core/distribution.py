"""How values are spread over fixed buckets: what a histogram exports, counted as cheaply as can be; pure."""

from bisect import bisect_left
from dataclasses import dataclass

SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
    14400.0,
)  # fmt: skip
"""Upper edges of buckets for work that takes from a lookup to a night: the conventions' own end at 10 s."""


@dataclass(frozen=True, slots=True)
class Example:
    """A value that was seen, and the trace that tells of it."""

    value: float
    at_ns: int
    trace_id: int
    span_id: int


class Distribution:
    """Counts, sum and extremes. ``edges`` are the buckets' upper edges, which belong to them."""

    def __init__(self, edges: tuple[float, ...] = SECONDS) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0
        self.low = float("inf")
        self.high = float("-inf")
        self.examples: dict[int, Example] = {}
        """The latest one of each bucket."""

    def add(self, value: float, example: Example | None = None) -> None:
        """Count a value."""
        bucket = bisect_left(self.edges, value)
        self.counts[bucket] += 1
        self.sum += value
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value
        if example is not None:
            self.examples[bucket] = example
