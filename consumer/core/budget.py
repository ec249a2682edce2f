"""What may be paid: the budgets, and how whoever is about to spend money asks for leave; pure.

How the leave of one lane is kept apart from that of all others is in ``lane_budget``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

EVERYBODY = "*"


class Key(NamedTuple):
    """One budget in one period."""

    scope: str
    """EVERYBODY, or a tenant."""
    period: str
    """``2026-11-25`` or ``2026-11``."""

    @property
    def is_day(self) -> bool:
        return self.period.count("-") == 2


class Standing(NamedTuple):
    """How a budget stands, as its lanes have committed it; in micro-dollars."""

    key: Key
    limit: int
    spent: int

    @property
    def left(self) -> int:
        """0 once it is used up, or was lowered below what had been spent."""
        return max(0, self.limit - self.spent)

    @property
    def used_share(self) -> float:
        """A budget of nothing is used up."""
        return self.spent / self.limit if self.limit else 1.0


def shown(found: Iterable[Standing], tenants_at_most: int) -> list[Standing]:
    """Everybody's budgets, and of the tenants' those that have the least left of theirs."""
    everybody, tenants = list[Standing](), list[Standing]()
    for one in found:
        (everybody if one.key.scope == EVERYBODY else tenants).append(one)
    tenants.sort(key=lambda one: one.used_share, reverse=True)
    return everybody + tenants[:tenants_at_most]


def period_begin(period: str) -> datetime:
    """When a day or a month begins, in UTC."""
    year, month, day = (int(part) for part in f"{period}-01".split("-")[:3])
    return datetime(year, month, day, tzinfo=UTC)


def period_end(period: str) -> datetime:
    """When a day or a month is over, in UTC."""
    begin = period_begin(period)
    if period.count("-") == 2:
        return begin + timedelta(days=1)
    return (begin + timedelta(days=31)).replace(day=1)


def period_seconds(period: str) -> float:
    """How long a day or a month is."""
    return (period_end(period) - period_begin(period)).total_seconds()


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets, in micro-dollars."""

    day: int | None = None
    month: int | None = None
    tenant_day: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.day is not None or self.month is not None or bool(self.tenant_day)

    def of(self, tenant: str, now: datetime) -> list[Key]:
        """What a payment for a tenant counts against now."""
        utc = now.astimezone(UTC)
        keys = [Key(EVERYBODY, f"{utc:%Y-%m-%d}"), Key(EVERYBODY, f"{utc:%Y-%m}"), Key(tenant, f"{utc:%Y-%m-%d}")]
        return [key for key in keys if self.limit(key) is not None]

    def every(self, now: datetime) -> list[Key]:
        """All budgets that count now: everybody's, then the tenants'."""
        return list(dict.fromkeys(key for tenant in ("", *self.tenant_day) for key in self.of(tenant, now)))

    def limit(self, key: Key) -> int | None:
        """A budget's amount; None: there is no such limit."""
        if key.scope == EVERYBODY:
            return self.day if key.is_day else self.month
        return self.tenant_day.get(key.scope) if key.is_day else None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Too little is left; there is more at ``until``, in ``wait_seconds``."""

    until: datetime
    wait_seconds: float


class Grant:
    """Leave to spend so much once; ``settle`` must follow, whatever came of it."""

    def __init__(self, microusd: int, settled: Callable[[int], None] = lambda _: None) -> None:
        """``settled`` is told the true price."""
        self.microusd = microusd
        self._settled = settled

    def settle(self, microusd: int) -> None:
        """What it did cost. Only the first word counts."""
        settled, self._settled = self._settled, lambda _: None
        settled(microusd)


class Purse(Protocol):
    """Pays for one event: out of everybody's budgets and its tenant's, from its lane's part of them."""

    def exhausted(self, microusd: int) -> Exhausted | None:
        """Whether so much is known to be left nowhere. Takes nothing, waits for nothing: for whoever picks the way."""
        ...

    async def reserve(self, microusd: int) -> Grant | Exhausted:
        """Leave to spend so much, committed before this returns. Waits for a transaction or for other lanes' money,
        a few seconds at most; then, too, the answer is Exhausted.
        """
        ...


class _Unlimited:
    """Where no budget is set."""

    def exhausted(self, microusd: int) -> Exhausted | None:  # noqa: ARG002 (the protocol's)
        return None

    async def reserve(self, microusd: int) -> Grant | Exhausted:
        return Grant(microusd)


UNLIMITED: Purse = _Unlimited()
