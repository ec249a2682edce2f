"""How much a device can take at once, as learnt from the batches that were too much for it; pure."""

RELAX_SECONDS = 600.0
"""So long after a batch was too much, twice as much is tried again: memory may have been short for a while only."""


class MemoryBudget:
    """A limit on the padded audio of a batch; none until a batch has run out of memory. Moments are in seconds."""

    def __init__(self) -> None:
        self._limit_seconds: float | None = None
        self._too_much_seconds = 0.0
        self._since = 0.0

    def exceeded(self, padded_seconds: float, now: float) -> None:
        """A batch of so much padded audio ran out of memory: half of it is the limit from here."""
        self._too_much_seconds = max(self._too_much_seconds, padded_seconds)
        self._limit_seconds, self._since = padded_seconds / 2, now

    def limit_seconds(self, now: float) -> float | None:
        """The limit at this moment; it doubles with time until it is no more."""
        while self._limit_seconds is not None and now - self._since >= RELAX_SECONDS:
            self._limit_seconds, self._since = self._limit_seconds * 2, self._since + RELAX_SECONDS
            if self._limit_seconds >= self._too_much_seconds:
                self._limit_seconds, self._too_much_seconds = None, 0.0
        return self._limit_seconds

    def parts(self, lengths_seconds: list[float], now: float) -> list[slice]:
        """A batch in parts within the limit, in order; a single chunk may be above it."""
        limit = self.limit_seconds(now)
        if limit is None:
            return [slice(0, len(lengths_seconds))] if lengths_seconds else []
        parts: list[slice] = []
        first, longest = 0, 0.0
        for index, length in enumerate(lengths_seconds):
            longest = max(longest, length)
            if index > first and longest * (index + 1 - first) > limit:
                parts.append(slice(first, index))
                first, longest = index, length
        return [*parts, slice(first, len(lengths_seconds))] if lengths_seconds else []
