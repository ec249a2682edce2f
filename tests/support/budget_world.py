"""Lanes, their owners and the budget topic, without Kafka: whatever can happen to them, in any order."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from consumer.core.budget import Exhausted, Grant, Key, Limits
from consumer.core.lane_budget import LaneBudget, Peers
from schemas.models import BudgetEntry


@dataclass
class Owner:
    """A process that has, or had, a lane."""

    lane: int
    budget: LaneBudget
    peers: Peers
    clock_ahead: timedelta = timedelta()
    out: list[tuple[Grant, list[Key]]] = field(default_factory=list)
    """Calls under way, and the budgets that they count against."""
    read: Counter[int] = field(default_factory=Counter)
    """How many entries of each lane it has read."""
    proposal: BudgetEntry | None = None
    """Sent, and not known to be committed."""
    is_fenced: bool = False


class World:
    """``log`` is the topic; ``paid`` what the API's own books say, with what calls under way can cost at most."""

    def __init__(self, limits: Limits, lanes: int, now: datetime) -> None:
        self.limits, self.lanes, self.now = limits, lanes, now
        self.log: list[list[BudgetEntry]] = [[] for _ in range(lanes)]
        self.paid: Counter[Key] = Counter()
        self.owners = [self.new_owner(lane) for lane in range(lanes)]

    def new_owner(self, lane: int) -> Owner:
        """Somebody who has read the lane's own entries, and no others yet."""
        peers = Peers(self.limits, self.lanes)
        last = self.log[lane][-1] if self.log[lane] else None
        return Owner(lane, LaneBudget(lane, peers, last), peers)

    def clock(self, owner: Owner) -> datetime:
        return self.now + owner.clock_ahead

    def ask(self, owner: Owner, tenant: str, microusd: int) -> Grant | Exhausted | None:
        """Ask, and pay at once if granted: the API counts when it is called, whatever happens then."""
        answer = owner.budget.ask(tenant, microusd, self.clock(owner))
        if isinstance(answer, Grant):
            keys = self.limits.of(tenant, self.clock(owner))
            owner.out.append((answer, keys))
            self.paid.update(dict.fromkeys(keys, microusd))
        return answer

    def settle(self, owner: Owner, number: int, cost_microusd: int) -> None:
        """A call ends, and costs perhaps less."""
        grant, keys = owner.out.pop(number)
        grant.settle(cost_microusd)
        self.paid.subtract(dict.fromkeys(keys, grant.microusd - cost_microusd))

    def send(self, owner: Owner, *, closing: bool = False) -> None:
        """Begin a commit, unless one is under way."""
        if owner.proposal is None:
            owner.proposal = owner.budget.propose(self.clock(owner), closing=closing)

    def land(self, owner: Owner, *, heard: bool = True) -> None:
        """The commit under way succeeds, if it can; its owner hears of it or dies first."""
        proposal, owner.proposal = owner.proposal, None
        if proposal is None or owner.is_fenced:
            return
        self.log[owner.lane].append(proposal)
        if heard:
            owner.budget.confirm()
        else:
            self.take_over(owner.lane)

    def take_over(self, lane: int) -> Owner:
        """Somebody else opens the lane; the old owner does not know yet, and may go on spending."""
        old = self.owners[lane]
        old.is_fenced = True
        self.owners[lane] = self.new_owner(lane)
        return old

    def learn(self, owner: Owner, lane: int, entries: int = 1_000_000) -> None:
        """Read some of a lane's entries."""
        start = owner.read[lane]
        for entry in self.log[lane][start : start + entries]:
            owner.peers.learn(entry)
            owner.read[lane] += 1

    def reserved(self) -> Counter[Key]:
        """What the lanes' last entries reserve together."""
        last = [account for entries in self.log if entries for account in entries[-1].accounts]
        total: Counter[Key] = Counter()
        for account in last:
            total[Key(account.scope, account.period)] += account.reserved_microusd
        return total

    def settle_down(self) -> None:
        """Everybody reads, and commits what is due, until nothing is."""
        for _ in range(100):
            for owner in self.owners:
                for lane in range(self.lanes):
                    self.learn(owner, lane)
            due = [owner for owner in self.owners if owner.budget.is_due()]
            if not due:
                return
            for owner in due:
                self.send(owner)
                self.land(owner)
        raise AssertionError("the lanes never come to rest")
