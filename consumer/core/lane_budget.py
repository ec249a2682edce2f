"""One lane's part of the budgets, so that all lanes together never spend more, whoever dies when; pure.

A budget limits what is paid for everybody, or for one tenant, in one UTC day or month. Every lane has an equal share of
it, and writes down what it may spend (*reserves*) before it spends; whoever takes the lane over counts all of that as
spent. A lane gives what it does not need to one that asks for more, and a gift counts once the giver's entry is
committed. So, in what is committed, at any moment and for each budget:

    the lanes' allotments (share + received - given) add up to the limit
    what a lane has spent, and has out in grants, is at most what it has reserved, and that at most its allotment

A lane's entry has one writer, its owner. The others read it, however late: what a lane has not read yet makes it
poorer, never richer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from consumer.core.budget import Exhausted, Grant, Key, Limits, Standing, period_end
from schemas.models import BudgetAccount, BudgetEntry

_KEPT_PERIODS = 3
"""Days, and months, that a lane remembers: the clocks of two owners may differ, or jump."""


@dataclass(slots=True)
class _Account:
    """One budget in one period, as its lane has it; all in micro-dollars."""

    committed: BudgetAccount
    spent: int
    ceiling: int
    """What is reserved for certain: the least of the last committed entry and of one that is under way."""
    out: int = 0
    """Granted, and not settled."""
    waiting: int = 0
    """Asked for, and not granted."""
    granted: int = 0
    """Since the last entry was made."""

    @property
    def used(self) -> int:
        return self.spent + self.out

    @property
    def is_still(self) -> bool:
        """Nothing is under way, and the last entry says all there is to say."""
        said = self.committed
        return (
            not (self.out or self.waiting or self.granted or said.wanted_microusd)
            and said.spent_microusd == said.reserved_microusd == self.spent
        )


class Peers:
    """What every lane has committed, as far as it has been read."""

    def __init__(self, limits: Limits, lanes: int) -> None:
        self.limits = limits
        self.lanes = lanes
        self._entries: dict[int, dict[Key, BudgetAccount]] = {}
        self._asking: dict[int, list[tuple[Key, BudgetAccount]]] = {}

    def learn(self, entry: BudgetEntry) -> None:
        """A lane's newest entry."""
        accounts = {Key(account.scope, account.period): account for account in entry.accounts}
        asking = [(key, account) for key, account in accounts.items() if account.wanted_microusd]
        self._entries[entry.partition] = accounts
        self._asking.pop(entry.partition, None)
        if asking:
            self._asking[entry.partition] = asking

    def of(self, lane: int, key: Key) -> BudgetAccount | None:
        """A lane's account; None: it has not touched this budget."""
        return self._entries.get(lane, {}).get(key)

    def share(self, lane: int, key: Key) -> int:
        """The part of a budget that a lane begins with; the parts add up to the limit."""
        limit = self.limits.limit(key) or 0
        return limit // self.lanes + (lane < limit % self.lanes)

    def received(self, lane: int, key: Key) -> int:
        """What the others have given a lane."""
        return sum(_to(lane, self.of(other, key)) for other in self._entries if other != lane)

    def spare(self, lane: int, key: Key) -> int:
        """What a lane has neither reserved nor given away."""
        account = self.of(lane, key)
        reserved, given = (account.reserved_microusd, _given(account)) if account is not None else (0, 0)
        return max(0, self.share(lane, key) + self.received(lane, key) - given - reserved)

    def spent(self, key: Key, *, besides: int | None = None) -> int:
        """What the lanes, all or all but one, are known to have spent."""
        # who shows it asks from another thread
        accounts = (self.of(lane, key) for lane in list(self._entries) if lane != besides)
        return sum(account.spent_microusd for account in accounts if account is not None)

    def standings(self, now: datetime) -> list[Standing]:
        """Every budget that counts now."""
        return [Standing(key, self.limits.limit(key) or 0, self.spent(key)) for key in self.limits.every(now)]

    def asking(self) -> list[tuple[int, Key, BudgetAccount]]:
        """The lanes that ask for more, lowest first."""
        return [(lane, key, account) for lane in sorted(self._asking) for key, account in self._asking[lane]]


def _given(account: BudgetAccount) -> int:
    return sum(account.given_microusd.values())


def _to(lane: int, account: BudgetAccount | None) -> int:
    """What was given to a lane."""
    return account.given_microusd.get(str(lane), 0) if account is not None else 0


class LaneBudget:
    """One lane's part of all budgets. Its owner alone has it; a new owner makes it anew from the lane's last entry."""

    def __init__(self, lane: int, peers: Peers, last: BudgetEntry | None = None) -> None:
        self._lane = lane
        self._peers = peers
        self._accounts: dict[Key, _Account] = {}
        self._proposal: list[BudgetAccount] = []
        self._answered: dict[tuple[int, Key], BudgetAccount] = {}
        """The entry of an asking lane that was answered last: its next one tells what is still missing."""
        for account in last.accounts if last is not None else ():
            lost = max(account.spent_microusd, account.reserved_microusd)
            # nobody knows what of the reserved money was spent before the last owner went
            restored = _Account(account, spent=lost, ceiling=lost)
            self._accounts[Key(account.scope, account.period)] = restored

    def exhausted(self, tenant: str, microusd: int, now: datetime) -> Exhausted | None:
        """Whether so much is left in no lane, as far as is known; not before which time there will be."""
        ends = [
            period_end(key.period) for key in self._peers.limits.of(tenant, now) if not self._may_hold(key, microusd)
        ]
        return Exhausted(max(ends), (max(ends) - now).total_seconds()) if microusd > 0 and ends else None

    def ask(self, tenant: str, microusd: int, now: datetime) -> Grant | Exhausted | None:
        """None: there may be enough, but it must be reserved first, or given by other lanes."""
        if microusd <= 0:
            return Grant(0)
        if (exhausted := self.exhausted(tenant, microusd, now)) is not None:
            return exhausted
        accounts = [account for key in self._peers.limits.of(tenant, now) if (account := self._open(key)) is not None]
        if any(account.used + microusd > account.ceiling for account in accounts):
            return None
        for account in accounts:
            account.out += microusd
            account.granted += microusd

        def settled(cost_microusd: int) -> None:
            for account in accounts:
                account.out -= microusd
                account.spent += cost_microusd

        return Grant(microusd, settled)

    @contextmanager
    def waiting(self, tenant: str, microusd: int, now: datetime) -> Iterator[None]:
        """Within the block the lane reserves, and asks the others for, so much more."""
        keys = self._peers.limits.of(tenant, now)
        accounts = [account for key in keys if (account := self._open(key)) is not None]
        for account in accounts:
            account.waiting += microusd
        try:
            yield
        finally:
            for account in accounts:
                account.waiting -= microusd

    def is_due(self) -> bool:
        """Whether somebody waits for the next entry: here, or in another lane."""
        self._meet_the_asking()
        return any(self._is_due(key, account) for key, account in self._accounts.items())

    def propose(self, now: datetime, *, closing: bool = False) -> BudgetEntry | None:
        """What to commit next, None if nothing is new. What it gives up counts from now on, what it adds once
        ``confirm`` is called. ``closing``: nothing is reserved beyond what is out already.
        """
        self._meet_the_asking()
        proposal = [self._next(key, account, closing=closing) for key, account in self._accounts.items()]
        if proposal == [account.committed for account in self._accounts.values()]:
            return None
        for new, (key, account) in zip(proposal, self._accounts.items(), strict=True):
            account.ceiling = min(account.ceiling, new.reserved_microusd)
            account.granted = 0
            for lane, at, asking in self._peers.asking():
                if at == key and _to(lane, new) > _to(lane, account.committed):
                    self._answered[lane, key] = asking
        self._proposal = proposal
        return BudgetEntry(partition=self._lane, accounts=proposal, at=now)

    def confirm(self) -> None:
        """The last proposal is committed."""
        for account in self._proposal:
            mine = self._accounts.get(Key(account.scope, account.period))
            if mine is not None:  # its period may be over, and forgotten
                mine.committed, mine.ceiling = account, account.reserved_microusd
        self._proposal = []

    def _may_hold(self, key: Key, microusd: int) -> bool:
        account = self._open(key)
        limit = self._peers.limits.limit(key)
        if account is None or limit is None:
            return limit is None
        return account.used + microusd + self._peers.spent(key, besides=self._lane) <= limit

    def _open(self, key: Key) -> _Account | None:
        """The account of a budget; None for a period that is so long over that it is forgotten."""
        if (account := self._accounts.get(key)) is None:
            known = sorted({at.period for at in self._accounts if len(at.period) == len(key.period)} - {key.period})
            if len(known) >= _KEPT_PERIODS:
                if key.period < known[0]:
                    return None
                self._accounts = {at: kept for at, kept in self._accounts.items() if at.period != known[0]}
            untouched = BudgetAccount(scope=key.scope, period=key.period, spent_microusd=0, reserved_microusd=0)
            account = self._accounts[key] = _Account(untouched, spent=0, ceiling=0)
        return account

    def _meet_the_asking(self) -> None:
        for lane, key, _ in self._peers.asking():
            if lane != self._lane and self._peers.limits.limit(key) is not None:
                self._open(key)

    def _is_due(self, key: Key, account: _Account) -> bool:
        new, old = self._next(key, account, closing=False), account.committed
        lacks_room = account.waiting > 0 and account.used + account.waiting > account.ceiling
        return (
            (lacks_room and new.reserved_microusd > old.reserved_microusd)
            or new.wanted_microusd > old.wanted_microusd
            or (old.wanted_microusd > 0 and new.wanted_microusd == 0)
            or new.given_microusd != old.given_microusd
        )

    def _next(self, key: Key, account: _Account, *, closing: bool) -> BudgetAccount:
        if account.is_still and not self._peers.asking():
            return account.committed
        waiting = 0 if closing else account.waiting
        received = self._peers.received(self._lane, key)
        given = dict(account.committed.given_microusd)
        allotment = self._peers.share(self._lane, key) + received - sum(given.values())
        needs = account.used + waiting
        if not closing:
            for lane, gift in self._gifts(key, account, allotment):
                given[str(lane)] = given.get(str(lane), 0) + gift
                allotment -= gift
        # ahead of what will be asked for until the next entry: about as much as since the last one
        ahead = 0 if closing else max(account.out, account.granted)
        return BudgetAccount(
            scope=key.scope,
            period=key.period,
            spent_microusd=account.spent,
            reserved_microusd=max(account.used, min(needs + ahead, allotment)),
            given_microusd=given,
            wanted_microusd=received + needs + ahead - allotment if waiting and needs > allotment else 0,
        )

    def _gifts(self, key: Key, account: _Account, allotment: int) -> Iterator[tuple[int, int]]:
        """Each lane gives in proportion to what it can spare. Of lanes that lack money the lowest goes first, and the
        others help it: else each could hold a part of what only one can have.
        """
        needs = account.used + account.waiting
        is_short = needs > allotment
        free = allotment - (account.used if is_short else needs)
        for lane, at, asking in self._peers.asking():
            if at != key or lane == self._lane or (is_short and lane > self._lane):
                continue
            # of what the lane has received, this lane's own part is known here first
            unread = _to(lane, account.committed) - _to(lane, self._peers.of(self._lane, key))
            missing = asking.wanted_microusd - self._peers.received(lane, key) - unread
            if free <= 0 or missing <= 0 or self._answered.get((lane, key)) is asking:
                continue
            others = set(range(self._peers.lanes)) - {lane, self._lane}
            spare = free + sum(self._peers.spare(other, key) for other in others)
            gift = min(free, -(-missing * free // spare))
            yield lane, gift
            free -= gift
