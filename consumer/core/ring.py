"""Sums of the last minute, second by second, in a ring that never grows; pure."""

SLOTS = 60
"""Seconds that are remembered."""


class MinuteRing:
    """Several sums side by side over the last 60 seconds. ``now`` is in seconds on one clock throughout."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._sums = [[0.0] * width for _ in range(SLOTS)]
        self._seconds = [-SLOTS] * SLOTS
        """The second that each slot's sums are of."""

    def add(self, now: float, *values: float) -> None:
        """One value for each of the sums."""
        second = int(now)
        slot = second % SLOTS
        if self._seconds[slot] != second:
            self._seconds[slot], self._sums[slot] = second, [0.0] * self._width
        sums = self._sums[slot]
        for column, value in enumerate(values):
            sums[column] += value

    def sums(self, now: float) -> list[float]:
        """Each sum over the last minute."""
        last = int(now)
        recent = [sums for sums, second in zip(self._sums, self._seconds, strict=True) if last - SLOTS < second <= last]
        return [sum(column) for column in zip(*recent, strict=True)] if recent else [0.0] * self._width

    def series(self, now: float, column: int) -> list[float]:
        """One sum of each of the last 60 whole seconds, the oldest first; the second under way is left out."""
        last = int(now)
        return [
            self._sums[second % SLOTS][column] if self._seconds[second % SLOTS] == second else 0.0
            for second in range(last - SLOTS + 1, last)
        ]
