"""What was spent, by whom and on what, and what other ways would have cost; pure, and added up as decimals."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from consumer.core.budget import EVERYBODY, period_begin, period_end
from consumer.core.prices import ApiModel, microusd
from consumer.core.refine import REFINER
from schemas.codes import Outcome
from schemas.models import BudgetAccount, TranscriptionMetric

MINUTES = Decimal(1_000_000)
"""What-if figures are for so many minutes of audio."""
API_ENGINES = frozenset({"openai", REFINER})
"""Engines that are paid by their makers' price lists; the others run on machines of one's own."""
_SIXTY = Decimal(60)


@dataclass(slots=True)
class Spent:
    """A line of the books."""

    count: int = 0
    """Events; of an engine, tries."""
    audio_seconds: Decimal = Decimal(0)
    """Of the events' recordings; of an engine, what it was given."""
    usd: Decimal = Decimal(0)

    def add(self, audio_seconds: float | None, usd: float) -> None:
        """One event, or one try."""
        self.count += 1
        self.audio_seconds += Decimal(str(audio_seconds or 0))
        self.usd += Decimal(str(usd))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {"count": self.count, "audio_seconds": float(self.audio_seconds), "usd": float(self.usd)}


@dataclass(slots=True)
class Costs:
    """The books of some metric events."""

    total: Spent = field(default_factory=Spent)
    by_day: dict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))
    """UTC days in which the events were completed."""
    by_tenant: dict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))
    by_engine: dict[tuple[str, str], Spent] = field(default_factory=lambda: defaultdict(Spent))
    """Tries by engine and model, failed ones too."""
    local: Spent = field(default_factory=Spent)
    """Tries of one's own engines: what all of them cost, and the audio of those that gave words."""
    failed: Spent = field(default_factory=Spent)
    """Tries that gave no words; they are in ``by_engine`` too."""
    unlisted_usd: Decimal = Decimal(0)
    """What events cost beyond the tries that their metrics list: the list is cut off after hundreds."""
    heard_seconds: Decimal = Decimal(0)
    """Audio of transcripts that were not answered from memory."""
    transcribed_seconds: Decimal = Decimal(0)
    paid_microusd: Counter[str] = field(default_factory=Counter)
    """What APIs were paid in each UTC day as budgets count it: each try in whole micro-dollars, rounded up."""

    def add(self, metric: TranscriptionMetric) -> None:
        """One event's outcome."""
        day = f"{metric.completed_at:%Y-%m-%d}"
        for line in (self.total, self.by_day[day], self.by_tenant[metric.tenant]):
            line.add(metric.audio_seconds, metric.cost_usd)
        if metric.outcome is Outcome.TRANSCRIBED:
            seconds = Decimal(str(metric.audio_seconds or 0))
            self.transcribed_seconds += seconds
            self.heard_seconds += 0 if metric.cached else seconds
        listed = Decimal(0)
        for attempt in metric.attempts:
            self.by_engine[attempt.engine, attempt.model].add(attempt.audio_seconds, attempt.cost_usd)
            if attempt.outcome != "ok":
                self.failed.add(attempt.audio_seconds, attempt.cost_usd)
            if attempt.engine in API_ENGINES:
                self.paid_microusd[day] += microusd(attempt.cost_usd)
            else:
                self.local.add(attempt.audio_seconds if attempt.outcome == "ok" else 0, attempt.cost_usd)
            listed += Decimal(str(attempt.cost_usd))
        unlisted = Decimal(str(metric.cost_usd)) - listed
        self.unlisted_usd += unlisted
        self.paid_microusd[day] += microusd(unlisted)

    @property
    def cache_share(self) -> Decimal | None:
        """The part of the transcribed audio that was answered from memory, 0 to 1; None: there was no audio."""
        if not self.transcribed_seconds:
            return None
        return 1 - self.heard_seconds / self.transcribed_seconds

    def beyond_usd(
        self, accounts: Iterable[BudgetAccount], since: datetime, until: datetime, now: datetime
    ) -> dict[str, Decimal]:
        """By period, what budgets count as spent and no event tells of: it was reserved by a process that died, or is
        of events that are not settled yet. ``accounts``: each lane's latest. Only of periods that ``since`` and
        ``until`` leave whole as far as they have come by ``now``, and where it is more than nothing.
        """
        spent: Counter[str] = Counter()
        for account in accounts:
            if account.scope == EVERYBODY:
                spent[account.period] += account.spent_microusd
        beyond = {}
        for period, counted in sorted(spent.items()):
            told = sum(paid for day, paid in self.paid_microusd.items() if day.startswith(period))
            whole = since <= period_begin(period) and until >= min(now, period_end(period))
            if whole and counted > told:
                beyond[period] = Decimal(counted - told) / 1_000_000
        return beyond

    def what_if(self, api: ApiModel) -> "WhatIf":
        """What a million minutes of this traffic would cost, by who hears them."""
        asked, heard = self.transcribed_seconds, self.heard_seconds
        if not asked:
            return WhatIf(None, None, None, None)
        fresh, local = MINUTES * heard / asked, self.local
        return WhatIf(
            this_policy_usd=self.total.usd / asked * _SIXTY * MINUTES,
            all_api_usd=api.usd_per_minute * fresh,
            all_local_usd=local.usd / local.audio_seconds * _SIXTY * fresh if local.audio_seconds else None,
            all_api_no_memory_usd=api.usd_per_minute * MINUTES,
        )


@dataclass(frozen=True, slots=True)
class WhatIf:
    """US dollars for a million minutes of the traffic that was seen; None: nothing was seen to tell from."""

    this_policy_usd: Decimal | None
    """As it was: what all of it cost, failures and dead letters included."""
    all_api_usd: Decimal | None
    """Everything that was not remembered, heard by the API at its price."""
    all_local_usd: Decimal | None
    """The same, by one's own engine at what a minute cost it; None too where it heard nothing."""
    all_api_no_memory_usd: Decimal | None
    """Every minute by the API, repeats too."""

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: None if value is None else float(value) for name, value in values.items()}
