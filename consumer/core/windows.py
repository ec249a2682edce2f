"""Sums of metric events over time, by when the events were completed; pure.

A tally adds up: the tally of two stretches of time is theirs merged. So a window is a ring of tallies of short slices,
and what comes late or out of order lands in the slice where it belongs.
"""

from dataclasses import dataclass, field
from decimal import Decimal

from consumer.core.sketch import Sketch
from schemas.codes import Outcome, Route
from schemas.models import TranscriptionMetric, WordErrors

SLICES = 60
AHEAD_SECONDS = 300.0
"""Clocks differ: an event from so far in the future is counted, one from farther is refused."""
_NOTHING = Decimal(0)


@dataclass(slots=True)
class WordSums:
    """Errors and words: a rate over many events is the quotient of the sums."""

    errors: int = 0
    words: int = 0

    def add(self, counts: WordErrors | None) -> None:
        """Count an event's, if it has any."""
        if counts is not None:
            self.errors += counts.errors
            self.words += counts.words

    def merge(self, other: "WordSums") -> None:
        self.errors += other.errors
        self.words += other.words

    @property
    def rate(self) -> float | None:
        """None without words."""
        return self.errors / self.words if self.words else None


@dataclass(slots=True)
class Tally:
    """What a stretch of time added up to."""

    events: int = 0
    dead_letters: int = 0
    cached: int = 0
    breaker_open: int = 0
    """Settled while their process left an engine alone, or served elsewhere for that."""
    left_alone: set[str] = field(default_factory=set)
    """Which engines: ``primary``, ``fallback``, ``shadow``, ``refine``."""
    audio_seconds: float = 0.0
    cost_usd: Decimal = _NOTHING
    """The exact sum of what the metric events say."""
    paid_usd: Decimal = _NOTHING
    """The part of it that went to APIs, for attempts that failed too."""
    latency: Sketch = field(default_factory=Sketch)
    """Seconds from publication to commit."""
    wer: WordSums = field(default_factory=WordSums)
    disagreement: WordSums = field(default_factory=WordSums)

    def add(self, metric: TranscriptionMetric) -> None:
        """Count an event."""
        self.events += 1
        self.dead_letters += metric.outcome is Outcome.DEAD_LETTERED
        self.cached += metric.cached
        self.breaker_open += metric.route is Route.BREAKER_OPEN or bool(metric.breakers_open)
        self.left_alone.update(metric.breakers_open)
        self.audio_seconds += metric.audio_seconds or 0.0
        self.cost_usd += usd(metric.cost_usd)
        self.paid_usd += sum(
            (usd(line.cost_usd) for line in metric.attempts if line.usage_source != "measured"), _NOTHING
        )
        self.latency.add(metric.latency_seconds.total)
        self.wer.add(metric.wer)
        self.disagreement.add(metric.disagreement)

    def merge(self, other: "Tally") -> None:
        """Count all of the other's events too."""
        self.events += other.events
        self.dead_letters += other.dead_letters
        self.cached += other.cached
        self.breaker_open += other.breaker_open
        self.left_alone |= other.left_alone
        self.audio_seconds += other.audio_seconds
        self.cost_usd += other.cost_usd
        self.paid_usd += other.paid_usd
        self.latency.merge(other.latency)
        self.wer.merge(other.wer)
        self.disagreement.merge(other.disagreement)

    @property
    def transcribed(self) -> int:
        return self.events - self.dead_letters

    @property
    def error_rate(self) -> float:
        """The share of events that became dead letters; 0 without events."""
        return self.dead_letters / self.events if self.events else 0.0

    @property
    def cache_share(self) -> float | None:
        """The share of transcripts that cost nothing; None without one."""
        return self.cached / self.transcribed if self.transcribed else None


def usd(amount: float) -> Decimal:
    """The amount as it is written, so that sums are exact."""
    return Decimal(repr(amount)) if amount else _NOTHING


class Window:
    """The last ``seconds``, in slices of equal length: memory does not grow with the traffic.

    The oldest slice leaves as a whole, so the window spans between ``seconds`` less a slice and ``seconds``. Moments
    are seconds since 1970 in UTC.
    """

    def __init__(self, seconds: float, slices: int = SLICES) -> None:
        self.seconds = seconds
        self._slices = slices
        self._slice_seconds = seconds / slices
        self._tallies: dict[int, Tally] = {}

    def add(self, metric: TranscriptionMetric, at: float, now: float) -> None:
        """Count an event of the moment ``at``, unless that is outside of the window."""
        slice_ = int(at // self._slice_seconds)
        if slice_ >= self._oldest(now) and at <= now + AHEAD_SECONDS:
            self._tallies.setdefault(slice_, Tally()).add(metric)

    def tally(self, now: float) -> Tally:
        """All that the window holds; what has left it is forgotten."""
        oldest = self._oldest(now)
        self._tallies = {slice_: tally for slice_, tally in self._tallies.items() if slice_ >= oldest}
        whole = Tally()
        for tally in self._tallies.values():
            whole.merge(tally)
        return whole

    def _oldest(self, now: float) -> int:
        return int(now // self._slice_seconds) - self._slices + 1
