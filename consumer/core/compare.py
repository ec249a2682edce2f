"""Engine against engine, from metric events: rates of word errors with confidence intervals; pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from consumer.core.cost import Spent
from consumer.core.refine import REFINER
from schemas.models import EngineRef, TranscriptionMetric, WordErrors

REFERENCE = "reference"
"""What a WER is against; a disagreement is against a second engine."""

_RESAMPLES = 1000
_FEWEST_EVENTS = 10
"""Fewer say nothing of how much the rest would differ."""
_LENGTHS = ((5.0, "under 5 s"), (30.0, "5 to 30 s"), (300.0, "30 s to 5 min"))
_LONGEST = "5 min and more"
_Counts = npt.NDArray[np.int64]


class Group(NamedTuple):
    """What the events of a row have in common."""

    by: str
    """``all``, ``language``, ``length`` or ``tenant``."""
    value: str
    engine: str
    """Name and model of the engine whose words these are."""
    against: str
    """REFERENCE, or the second engine."""


class Row(NamedTuple):
    """One line of the comparison. Rates are errors by words: of the sums, not the mean of rates."""

    group: Group
    events: int
    errors: int
    words: int
    rate: float
    interval: tuple[float, float] | None
    """95 %; None for too few events."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval or (None, None)
        counts = {"events": self.events, "errors": self.errors, "words": self.words}
        return {**self.group._asdict(), **counts, "rate": self.rate, "low": low, "high": high}


def _zeros() -> _Counts:
    return np.zeros(_RESAMPLES, dtype=np.int64)


@dataclass(slots=True)
class _Sums:
    """An event's own counts, and those of each resample."""

    events: int = 0
    errors: int = 0
    words: int = 0
    drawn_errors: _Counts = field(default_factory=_zeros)
    drawn_words: _Counts = field(default_factory=_zeros)

    def add(self, counts: WordErrors, times: _Counts) -> None:
        self.events += 1
        self.errors += counts.errors
        self.words += counts.words
        self.drawn_errors += times * counts.errors
        self.drawn_words += times * counts.words

    def interval(self) -> tuple[float, float] | None:
        drawn = self.drawn_words > 0
        if self.events < _FEWEST_EVENTS or not drawn.any():
            return None
        low, high = np.quantile(self.drawn_errors[drawn] / self.drawn_words[drawn], (0.025, 0.975))
        return float(low), float(high)


class Comparison:
    """Takes metric events one by one and keeps sums alone, so that any number of them fits.

    Intervals are those of the Poisson bootstrap (Chamandy et al., "Estimating uncertainty for massive data streams",
    2012): in each resample an event counts a Poisson(1) number of times. The draws are seeded by the event's id, so the
    same events give the same intervals in any order.
    """

    def __init__(self) -> None:
        self._groups: defaultdict[Group, _Sums] = defaultdict(_Sums)
        self.costs: defaultdict[str, Spent] = defaultdict(Spent)
        """What the engines' tries at the events that count have cost, failed ones too."""

    def add(self, metric: TranscriptionMetric) -> None:
        """Count an event that has word errors or a disagreement; a text counts once, not again for each cached one."""
        found = list(_found(metric))
        if metric.cached or not found:
            return
        times = _times_drawn(metric.event_id or "")
        for by, value in _places(metric):
            for engine, against, counts in found:
                self._groups[Group(by, value, engine, against)].add(counts, times)
        for line in metric.attempts:
            if line.engine != REFINER:
                self.costs[f"{line.engine} {line.model}"].add(line.audio_seconds, line.cost_usd)

    def rows(self) -> Iterator[Row]:
        """The whole first, then by language, length and tenant; groups without words are left out."""
        for group, sums in sorted(self._groups.items(), key=_order):
            if sums.words:
                rate = sums.errors / sums.words
                yield Row(group, sums.events, sums.errors, sums.words, rate, sums.interval())


def _times_drawn(event_id: str) -> _Counts:
    seed = int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).poisson(1.0, _RESAMPLES)


def _found(metric: TranscriptionMetric) -> Iterator[tuple[str, str, WordErrors]]:
    """Whose words were off, from what, and by how much."""
    if metric.engine is None:
        return
    served_by, second = _named(metric.engine), metric.shadow_wer
    if metric.wer is not None:
        yield served_by, REFERENCE, metric.wer
    if second is not None:
        yield _named(second.engine), REFERENCE, second
    if metric.disagreement is not None:
        yield served_by, metric.disagreement.against, metric.disagreement


def _named(engine: EngineRef) -> str:
    return f"{engine.name} {engine.model}"


def _places(metric: TranscriptionMetric) -> Iterator[tuple[str, str]]:
    yield "all", ""
    yield "language", metric.language or "unknown"
    if metric.audio_seconds is not None:
        yield "length", _length(metric.audio_seconds)
    yield "tenant", metric.tenant


def _length(audio_seconds: float) -> str:
    return next((name for bound, name in _LENGTHS if audio_seconds < bound), _LONGEST)


def _order(item: tuple[Group, _Sums]) -> tuple[int, int, Group]:
    group = item[0]
    lengths = [*(name for _, name in _LENGTHS), _LONGEST]
    place = lengths.index(group.value) if group.by == "length" else 0
    return ("all", "language", "length", "tenant").index(group.by), place, group
