"""What an engine has done: sums since its start, and shares of the last minute; pure."""

from collections import Counter
from dataclasses import dataclass

from consumer.core.ring import SLOTS, MinuteRing


@dataclass(frozen=True, slots=True)
class MinuteLoad:
    """The last minute; ratios are 0 to 1, and None while there was nothing."""

    batches: int
    chunks_per_batch: float | None
    padding_ratio: float | None
    """The part of what the model computed that was no audio."""
    busy_ratio: float
    """The part of the engine's time in which it worked."""
    realtime_factor: float
    """Seconds of audio that were heard in each second."""


class EngineLoad:
    """Fed with batches as they end; ``now`` is in seconds on one clock throughout."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._minute = MinuteRing(5)
        self._slots = 1
        self.batches: Counter[str] = Counter()
        """By why they were closed."""
        self.chunks = 0
        self.audio_seconds = 0.0
        self.padded_seconds = 0.0
        self.busy_seconds = 0.0

    def add(
        self,
        *,
        chunks: int,
        closed: str,
        audio_seconds: float,
        padded_seconds: float,
        busy_seconds: float,
        slots: int,
        now: float,
    ) -> None:
        """A batch went through; ``slots`` can run side by side."""
        self._slots = slots
        self.batches[closed] += 1
        self.chunks += chunks
        self.audio_seconds += audio_seconds
        self.padded_seconds += padded_seconds
        self.busy_seconds += busy_seconds
        self._minute.add(now, 1, chunks, audio_seconds, padded_seconds, busy_seconds)

    def minute(self, now: float) -> MinuteLoad:
        """Of the last minute, or of the time since the start if that is shorter."""
        batches, chunks, audio_seconds, padded_seconds, busy_seconds = self._minute.sums(now)
        passed = min(float(SLOTS), max(1.0, now - self._started))
        return MinuteLoad(
            round(batches),
            chunks / batches if batches else None,
            max(0.0, 1 - audio_seconds / padded_seconds) if padded_seconds else None,
            min(1.0, busy_seconds / passed / self._slots),
            audio_seconds / passed,
        )

    def realtime_series(self, now: float) -> list[float]:
        """Seconds of audio heard in each of the last seconds, the oldest first."""
        return self._minute.series(now, 2)
