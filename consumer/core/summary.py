"""What a stretch of time comes to, as `summary` and `report` show it; pure."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from consumer.core.sketch import Sketch
from consumer.core.windows import Tally, WordSums, usd
from schemas.models import LatencySeconds, TranscriptionMetric

Engine = tuple[str, str]
"""Name and model."""
NO_ENGINE: Engine = ("none", "")
"""Of dead letters."""
STAGES = tuple(name for name in LatencySeconds.model_fields if name != "total")
LENGTHS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Upper bounds of the length histogram's classes; the last class has none."""
_SLICES_AT_MOST = 48
_SLICE_SECONDS = (60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)


class Summary:
    """Sums of the events that were added, as a whole and by what they have in common."""

    def __init__(self) -> None:
        self.total = Tally()
        self.by_engine: defaultdict[Engine, Tally] = defaultdict(Tally)
        """By whose words they are, a cached transcript's too."""
        self.by_tenant: defaultdict[str, Tally] = defaultdict(Tally)
        self.spent_usd: defaultdict[Engine, Decimal] = defaultdict(Decimal)
        """By who was paid, failed attempts too; adds up to the total."""
        self.reasons: Counter[str] = Counter()
        self.routes: Counter[str] = Counter()
        self.stages: defaultdict[str, Sketch] = defaultdict(Sketch)
        """Seconds, of the events that went through the stage."""
        self.lengths: Counter[int] = Counter()
        """Recordings by the index of their class; those that were never decoded have no length."""

    def add(self, metric: TranscriptionMetric) -> None:
        """Count an event."""
        engine = NO_ENGINE if metric.engine is None else (metric.engine.name, metric.engine.model)
        for tally in (self.total, self.by_engine[engine], self.by_tenant[metric.tenant]):
            tally.add(metric)
        self._spend(metric, engine)
        if metric.reason is not None:
            self.reasons[metric.reason] += 1
        if metric.route is not None:
            self.routes[metric.route] += 1
        for stage in STAGES:
            if (seconds := getattr(metric.latency_seconds, stage)) is not None:
                self.stages[stage].add(seconds)
        if metric.audio_seconds is not None:
            self.lengths[sum(metric.audio_seconds > bound for bound in LENGTHS_SECONDS)] += 1

    def _spend(self, metric: TranscriptionMetric, engine: Engine) -> None:
        left = usd(metric.cost_usd)
        for attempt in metric.attempts:
            if attempt.cost_usd:
                self.spent_usd[attempt.engine, attempt.model] += usd(attempt.cost_usd)
                left -= usd(attempt.cost_usd)
        # a ledger may be cut short, and its float sum may differ in the last digit
        if left:
            self.spent_usd[engine] += left

    def engines(self) -> list[Engine]:
        """Those that made texts or were paid, the busiest first."""
        events = {engine: tally.events for engine, tally in self.by_engine.items()}
        return sorted({*events, *self.spent_usd}, key=lambda engine: (-events.get(engine, 0), engine))

    def tenants(self) -> list[str]:
        """The busiest first."""
        return sorted(self.by_tenant, key=lambda tenant: (-self.by_tenant[tenant].events, tenant))

    def as_dict(self) -> dict[str, Any]:
        """For programs; null where there is nothing to tell of."""
        engines = self.engines()
        return {
            **_figures(self.total),
            "routes": dict(self.routes.most_common()),
            "dead_letters_by_reason": dict(self.reasons.most_common()),
            "stages_seconds": {stage: _quantiles(self.stages[stage]) for stage in STAGES if stage in self.stages},
            "by_engine": [
                {
                    "engine": None if engine == NO_ENGINE else engine[0],
                    "model": engine[1] or None,
                    **_figures(self.by_engine.get(engine, Tally())),
                    "cost_usd": float(self.spent_usd.get(engine, 0)),
                }
                for engine in engines
            ],
            "by_tenant": [{"tenant": tenant, **_figures(self.by_tenant[tenant])} for tenant in self.tenants()],
        }


class Timeline:
    """A stretch of time as a whole and in slices, from ``since`` on and before ``until``."""

    def __init__(self, since: datetime, until: datetime) -> None:
        self.since, self.until = since, until
        seconds = (until - since).total_seconds()
        fit = (length for length in _SLICE_SECONDS if seconds / length <= _SLICES_AT_MOST)
        self.slice_seconds = next(fit, _SLICE_SECONDS[-1])
        self.whole = Summary()
        self._slices: dict[int, Summary] = {}

    def add(self, metric: TranscriptionMetric) -> None:
        """Count an event of that stretch."""
        self.whole.add(metric)
        slice_ = int(metric.completed_at.timestamp() // self.slice_seconds)
        self._slices.setdefault(slice_, Summary()).add(metric)

    def slices(self) -> list[tuple[datetime, Summary]]:
        """Each slice's begin and sums, in order, those without events too."""
        first = int(self.since.timestamp() // self.slice_seconds)
        last = int((self.until - timedelta(microseconds=1)).timestamp() // self.slice_seconds)
        return [
            (datetime.fromtimestamp(slice_ * self.slice_seconds, UTC), self._slices.get(slice_, Summary()))
            for slice_ in range(first, last + 1)
        ]


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "events": tally.events,
        "transcribed": tally.transcribed,
        "dead_lettered": tally.dead_letters,
        "cached": tally.cached,
        "cache_share": tally.cache_share,
        "audio_hours": tally.audio_seconds / 3600,
        "latency_seconds": _quantiles(tally.latency),
        "cost_usd": float(tally.cost_usd),
        "wer": _words(tally.wer),
        "disagreement": _words(tally.disagreement),
    }


def _quantiles(sketch: Sketch) -> dict[str, float | None]:
    return {"mean": sketch.mean, **{f"p{share}": sketch.quantile(share / 100) for share in (50, 95, 99)}}


def _words(sums: WordSums) -> dict[str, float | int | None] | None:
    return {"errors": sums.errors, "words": sums.words, "rate": sums.rate} if sums.words else None
