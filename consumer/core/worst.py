"""The worst of the last minute, in a ring that never grows; pure."""

_SLOTS = 60


class WorstOfMinute:
    """The largest of the values of the last 60 seconds, to the second. ``now`` must not run backwards."""

    def __init__(self) -> None:
        self._values = [0.0] * _SLOTS
        self._seconds = [-_SLOTS] * _SLOTS
        """The second that each slot's value is of."""

    def add(self, value: float, now: float) -> None:
        second = int(now)
        slot = second % _SLOTS
        if self._seconds[slot] != second:
            self._seconds[slot], self._values[slot] = second, 0.0
        self._values[slot] = max(self._values[slot], value)

    def worst(self, now: float) -> float:
        """0 where nothing was added."""
        oldest = int(now) - _SLOTS
        return max(
            (value for value, second in zip(self._values, self._seconds, strict=True) if second > oldest), default=0.0
        )
