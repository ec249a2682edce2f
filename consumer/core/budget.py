"""What may be paid: the budgets, and how whoever is about to spend money asks for leave; pure.

How the leave of one lane is kept apart from that of all others is in ``lane_budget``.
"""

from collections.abc import Callable, Mapping
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


def period_end(period: str) -> datetime:
    """When a day or a month is over, in UTC."""
    year, month, day = (int(part) for part in f"{period}-01".split("-")[:3])
    begin = datetime(year, month, day, tzinfo=UTC)
    if period.count("-") == 2:
        return begin + timedelta(days=1)
    return (begin + timedelta(days=31)).replace(day=1)


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

    def limit(self, key: Key) -> int | None:
        """A budget's amount; None: there is no such limit."""
        is_day = key.period.count("-") == 2
        if key.scope == EVERYBODY:
            return self.day if is_day else self.month
        return self.tenant_day.get(key.scope) if is_day else None


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
