"""When to raise an alert and when to clear it; pure.

Each rule gives a verdict: over its threshold, clear of it, or in between, where nothing changes. What is raised is
cleared after ``CLEAR_SECONDS`` of clear verdicts, so that a value that trembles about its threshold raises once.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import sqrt
from typing import Literal

from consumer.core.budget import EVERYBODY, Standing, period_seconds
from consumer.core.windows import Tally, Window, WordSums
from schemas.models import Alert, AlertName, TranscriptionMetric

MINUTES_SECONDS, HOUR_SECONDS, DAY_SECONDS, WEEK_SECONDS = 300.0, 3600.0, 86_400.0, 604_800.0
CLEAR_SECONDS = 300.0
CLEAR_SHARE = 0.9
"""A rate is clear of its threshold at this share of it."""
BUDGET_STEPS = (0.8, 1.0)
_USED_UP = 0.995
"""Of a budget: nothing beyond it is ever paid, so its last cents buy no call and stay."""
_TOLD = 5
"""Budgets in an alert's detail at most."""
_NOISE = 3.0
"""Standard deviations of a Poisson count that word errors must be off the baseline: less happens by chance."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What each rule compares with."""

    latency_p95_seconds: float
    error_rate: float
    quality_drop: float
    """Relative to the baseline."""
    dead_letters: int
    lag_growth: int
    min_events: int
    """A window with fewer raises neither latency nor error rate."""
    min_words: int
    """A window or a baseline with fewer says nothing about quality."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule found."""

    value: float
    threshold: float
    window_seconds: float
    detail: str
    over: bool
    clear: bool | None
    """None: that cannot be told now."""


class Windows:
    """The windows that the rules look at: 5 minutes, an hour, a day, and a week as the baseline."""

    def __init__(self) -> None:
        self._rolling = [Window(seconds) for seconds in (MINUTES_SECONDS, HOUR_SECONDS, DAY_SECONDS, WEEK_SECONDS)]

    def add(self, metric: TranscriptionMetric, now: datetime) -> None:
        """Count an event by when it was completed."""
        for window in self._rolling:
            window.add(metric, metric.completed_at.timestamp(), now.timestamp())

    def seen(self, now: datetime, budgets: Sequence[Standing] = ()) -> "Seen":
        """All windows as of now, and how the budgets stand."""
        minutes, hour, day, week = (window.tally(now.timestamp()) for window in self._rolling)
        return Seen(minutes, hour, day, week, budgets)


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to judge at one moment: the windows' tallies, and the budgets."""

    minutes: Tally
    hour: Tally
    day: Tally
    week: Tally
    budgets: Sequence[Standing]

    @property
    def rolling(self) -> Sequence[tuple[float, Tally]]:
        """Seconds and tally, the shortest first."""
        return (MINUTES_SECONDS, self.minutes), (HOUR_SECONDS, self.hour), (DAY_SECONDS, self.day)


class LagTrend:
    """Whether the lag grows: its lowest in the last half of 5 minutes against its highest in the half before."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, lag: int, now: datetime) -> None:
        """A sample; ``now`` must not run backwards."""
        at = now.timestamp()
        self._samples.append((at, lag))
        while self._samples[0][0] <= at - MINUTES_SECONDS:
            self._samples.popleft()

    def growth(self, now: datetime) -> int | None:
        """Records by which it has grown for certain; None before it was watched for a window."""
        middle = now.timestamp() - MINUTES_SECONDS / 2
        before = [lag for at, lag in self._samples if at <= middle]
        after = [lag for at, lag in self._samples if at > middle]
        if not before or not after or self._samples[0][0] > now.timestamp() - 0.8 * MINUTES_SECONDS:
            return None
        return max(0, min(after) - max(before))


class Alerts:
    """What is raised; its only writer."""

    def __init__(self, limits: Limits, raised: Mapping[str, Alert]) -> None:
        """``raised`` is what the topic says of every alert that was ever raised or cleared, by name."""
        self._limits = limits
        self._raised = {name: alert for name, alert in raised.items() if alert.state == "raised"}
        self._clear_since: dict[str, datetime] = {}

    @property
    def raised(self) -> Mapping[str, Alert]:
        return self._raised

    def judge(self, seen: Seen, lag_growth: int | None, now: datetime, left_alone: Sequence[str] = ()) -> list[Alert]:
        """What is to be raised or cleared now; it counts as done.

        ``left_alone``: engines of the process that watches. If nobody stands in for them, no event may be settled that
        would tell.
        """
        found = verdicts(seen, lag_growth, self._limits, left_alone)
        changes = [self._change(name, verdict, now) for name, verdict in found]
        return [change for change in changes if change is not None]

    def _change(self, name: AlertName, verdict: Verdict, now: datetime) -> Alert | None:
        raised = self._raised.get(name)
        if verdict.clear is False:
            self._clear_since.pop(name, None)
        # a budget that is used up says so although it was low before
        if verdict.over and (raised is None or verdict.threshold > raised.threshold):
            self._raised[name] = alert = _alert(name, "raised", verdict, now)
            return alert
        # while nothing can be told, what began to be clear stays so
        if raised is None or not (verdict.clear or name in self._clear_since):
            return None
        if (now - self._clear_since.setdefault(name, now)).total_seconds() < CLEAR_SECONDS:
            return None
        del self._raised[name], self._clear_since[name]
        return _alert(name, "cleared", verdict, now)


def _alert(name: AlertName, state: Literal["raised", "cleared"], verdict: Verdict, now: datetime) -> Alert:
    return Alert(
        name=name,
        state=state,
        value=verdict.value,
        threshold=verdict.threshold,
        window_seconds=verdict.window_seconds,
        detail=verdict.detail,
        at=now,
    )


def verdicts(
    seen: Seen, lag_growth: int | None, limits: Limits, left_alone: Sequence[str] = ()
) -> list[tuple[AlertName, Verdict]]:
    """Every rule's verdict."""
    return [
        (
            "latency_high",
            _rate(
                seen,
                lambda tally: tally.latency.quantile(0.95) or 0.0,
                limits.latency_p95_seconds,
                limits.min_events,
                lambda value, tally: f"95 % of {tally.events} events took up to {value:.1f} s",
            ),
        ),
        (
            "error_rate_high",
            _rate(
                seen,
                lambda tally: tally.error_rate,
                limits.error_rate,
                limits.min_events,
                lambda _, tally: f"{tally.dead_letters} of {tally.events} events became dead letters",
            ),
        ),
        ("quality_drop", _quality(seen, limits)),
        *_budgets(seen.budgets),
        ("breaker_open", _breaker(seen.minutes, left_alone)),
        ("lag_growing", _lag(lag_growth, limits.lag_growth)),
        ("dead_letters", _letters(seen.hour.dead_letters, limits.dead_letters)),
    ]


def _rate(
    seen: Seen,
    value_of: Callable[[Tally], float],
    threshold: float,
    min_events: int,
    tell: Callable[[float, Tally], str],
) -> Verdict:
    """Over where a window with enough events is, and the last minutes too: what is past raises nothing.

    Without enough events in 5 minutes the hour decides, or the day. After an hour without events it is clear.
    """
    enough = [(seconds, tally) for seconds, tally in seen.rolling if tally.events >= min_events]
    crossed = [(seconds, tally) for seconds, tally in enough if value_of(tally) > threshold]
    seconds, tally = [*crossed, *enough, (MINUTES_SECONDS, seen.minutes)][0]
    recent = value_of(seen.minutes)
    return Verdict(
        value_of(tally),
        threshold,
        seconds,
        tell(value_of(tally), tally),
        over=bool(crossed) and recent > threshold,
        clear=recent <= CLEAR_SHARE * threshold if seen.minutes.events else None if seen.hour.events else True,
    )


def _quality(seen: Seen, limits: Limits) -> Verdict:
    """The worst of WER and disagreement, in the hour and in the day, against the rest of the week before."""
    found = [
        _drop(kind, window, week, seconds, limits)
        for seconds, tally in ((HOUR_SECONDS, seen.hour), (DAY_SECONDS, seen.day))
        for kind, window, week in (
            ("WER", tally.wer, seen.week.wer),
            ("disagreement", tally.disagreement, seen.week.disagreement),
        )
        if window.words >= limits.min_words and week.words - window.words >= limits.min_words
    ]
    if not found:
        return Verdict(0.0, limits.quality_drop, DAY_SECONDS, "too few words to tell", over=False, clear=True)
    return max(found, key=lambda verdict: (verdict.over, verdict.value))


def _drop(kind: str, window: WordSums, week: WordSums, seconds: float, limits: Limits) -> Verdict:
    errors, words = week.errors - window.errors, week.words - window.words
    # a baseline without a single error would make any error infinitely many
    expected = window.words * max(errors, 1) / words
    drop = window.errors / expected - 1
    return Verdict(
        drop,
        limits.quality_drop,
        seconds,
        f"{kind} is {window.errors / window.words:.1%} on {window.words} words; the week before had "
        f"{errors / words:.1%} on {words}",
        over=drop > limits.quality_drop and window.errors - expected > _NOISE * sqrt(expected),
        clear=drop <= CLEAR_SHARE * limits.quality_drop,
    )


def _budgets(found: Sequence[Standing]) -> list[tuple[AlertName, Verdict]]:
    """Everybody's day and month, and the tenants' together: the one that has used most of its own."""
    wanted = [one for one in found if one.limit]  # where nothing may be paid, nothing runs low
    everybody = [one for one in wanted if one.key.scope == EVERYBODY]
    return [
        ("budget_low", _budget([one for one in everybody if one.key.is_day])),
        ("month_budget_low", _budget([one for one in everybody if not one.key.is_day])),
        ("tenant_budget_low", _budget([one for one in wanted if one.key.scope != EVERYBODY])),
    ]


def _budget(found: Sequence[Standing]) -> Verdict:
    if not found:
        return Verdict(0.0, BUDGET_STEPS[0], DAY_SECONDS, "there is no budget", over=False, clear=True)
    found = sorted(found, key=lambda one: one.used_share, reverse=True)
    used = found[0].used_share
    used = max(used, 1.0) if used >= _USED_UP else used
    step = max((step for step in BUDGET_STEPS if used >= step), default=BUDGET_STEPS[0])
    told = [one for one in found if one.used_share >= BUDGET_STEPS[0]] or found
    detail = "; ".join(map(_spent, told[:_TOLD]))
    return Verdict(used, step, period_seconds(found[0].key.period), detail, over=used >= step, clear=used < step)


def _spent(one: Standing) -> str:
    whose = "" if one.key.scope == EVERYBODY else f"for {one.key.scope} "
    return f"{one.spent / 1e6:.2f} of {one.limit / 1e6:.2f} USD {whose}went to APIs in {one.key.period} (UTC)"


def _letters(letters: int, threshold: int) -> Verdict:
    return _count(letters, threshold, HOUR_SECONDS, f"{letters} new dead letter{'' if letters == 1 else 's'}")


def _count(value: int, threshold: int, window_seconds: float, detail: str) -> Verdict:
    return Verdict(value, threshold, window_seconds, detail, over=value > threshold, clear=value <= threshold)


def _breaker(minutes: Tally, left_alone: Sequence[str]) -> Verdict:
    names = ", ".join(sorted(minutes.left_alone.union(left_alone))) or "an engine"
    count = minutes.breaker_open
    served = f"{count} {'event was' if count == 1 else 'events were'} settled or served elsewhere"
    told = f"{served} while {names} was left alone" if count else f"{names} is left alone"
    found = _count(count, 0, MINUTES_SECONDS, told if count or left_alone else "no engine is left alone")
    return replace(found, value=found.value or 1, over=True, clear=False) if left_alone else found


def _lag(growth: int | None, threshold: int) -> Verdict:
    if growth is None:
        return Verdict(0.0, threshold, MINUTES_SECONDS, "not watched for long enough", over=False, clear=None)
    return Verdict(
        growth,
        threshold,
        MINUTES_SECONDS,
        f"{growth} more events wait than a few minutes ago",
        over=growth > threshold,
        clear=growth == 0,
    )
