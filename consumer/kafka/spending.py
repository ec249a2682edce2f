"""The budgets on Kafka: each lane's entry is written in the lane's own transactions, and every process reads them all.

What may be spent is decided in ``consumer.core.lane_budget``; here is where that is kept, and who waits for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from pydantic import ValidationError

from consumer.core.budget import Exhausted, Grant, Limits, Purse, Standing
from consumer.core.lane_budget import LaneBudget, Peers
from consumer.core.outcomes import Write
from consumer.dedup.restore import restore, sentinel_key
from consumer.errors import LaneError, ServiceError
from consumer.kafka.client import may_pass
from consumer.settings import Settings
from schemas.codec import encode
from schemas.models import BudgetEntry, utc_now

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 3.0
"""How long a payment waits for its lane's transaction, and for other lanes' money; it holds a place at the API."""
_POLL_MS = 1000
_POLL_RECORDS = 500
"""As many at once as leave the event loop responsive."""


def limits_of(settings: Settings) -> Limits:
    """The budgets that are set, in micro-dollars."""
    tenants = (entry.rpartition("=") for entry in settings.tenant_budget_usd_per_day)
    return Limits(
        _microusd(settings.budget_usd_per_day),
        _microusd(settings.budget_usd_per_month),
        {tenant: int(Decimal(usd) * 1_000_000) for tenant, _, usd in tenants},
    )


def _microusd(usd: float | None) -> int | None:
    return None if usd is None else int(Decimal(str(usd)) * 1_000_000)


def learn(peers: Peers, group_id: str, record: ConsumerRecord) -> None:
    """Take note of a record of the budget topic, if it is a lane's word of this group."""
    if record.key != _key(group_id, record.partition) or record.value is None:
        return
    try:
        peers.learn(BudgetEntry.model_validate_json(record.value))
    except ValidationError:
        log.warning("unreadable_budget_entry %s/%d/%d", record.topic, record.partition, record.offset)


class Spending:
    """What this process may pay: its lanes' parts of the budgets, and what all lanes have said of theirs."""

    def __init__(
        self, limits: Limits, lanes: int, *, topic: str, group_id: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """``clock`` tells the time in UTC. Groups that share the topics have budgets of their own."""
        self.topic = topic
        self.group_id = group_id
        self.clock = clock
        self.peers = Peers(limits, lanes)
        self._accounts: dict[int, LaneAccount] = {}
        self._moved = asyncio.Event()
        self._unread: dict[TopicPartition, int] | None = None
        """Where the partitions ended that have not been read so far yet; None before anything was read."""

    def standings(self) -> list[Standing]:
        """Every budget that counts now, once all that was there at first has been read; none before."""
        return self.peers.standings(self.clock()) if self._unread == {} else []

    def purse(self, partition: int, tenant: str) -> Purse:
        """Pays for a tenant's events in a partition."""
        return _Purse(self, partition, tenant)

    def account(self, partition: int) -> "LaneAccount":
        """For a lane of this process; it counts from ``restore`` to ``close``."""
        return LaneAccount(self, partition)

    def opened(self, partition: int) -> "LaneAccount | None":
        """The account of a lane that is open here."""
        return self._accounts.get(partition)

    def open(self, partition: int, account: "LaneAccount") -> None:
        """The lane's last owner is gone."""
        self._accounts[partition] = account
        self.moved()

    def close(self, partition: int, account: "LaneAccount") -> None:
        """The lane is lost."""
        if self._accounts.get(partition) is account:
            del self._accounts[partition]

    def moved(self) -> None:
        """Money may be there that was not before."""
        self._moved.set()
        self._moved = asyncio.Event()  # those who wait from now on wait for the next time

    async def until_moved(self) -> None:
        await self._moved.wait()

    @asynccontextmanager
    async def following(self, connection: Mapping[str, Any], tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Within the block all lanes' entries are read as they are committed."""
        task = tasks.create_task(self._follow(connection), name="budget")
        try:
            yield
        finally:
            task.cancel()

    async def _follow(self, connection: Mapping[str, Any]) -> None:
        consumer = AIOKafkaConsumer(
            **connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
            consumer.assign([TopicPartition(self.topic, number) for number in range(self.peers.lanes)])
            await consumer.seek_to_beginning()
            while True:
                await self._read_some(consumer)
        except KafkaError as error:
            raise ServiceError(f"the budgets in {self.topic} cannot be read: {error!r}") from error
        finally:
            await consumer.stop()

    async def _read_some(self, consumer: AIOKafkaConsumer) -> None:
        try:
            if self._unread is None:
                self._unread = await consumer.end_offsets(consumer.assignment())
            await asyncio.sleep(0)  # what a fetch has brought already is given without a wait, poll after poll
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            # transaction markers move the position too, and give no record
            unread = {at: end for at, end in self._unread.items() if await consumer.position(at) < end}
        except KafkaError as error:
            if not may_pass(error):
                raise
            log.warning("reading_budgets_again: %r", error)
            await asyncio.sleep(_POLL_MS / 1000)
            return
        for record in (record for batch in batches.values() for record in batch):
            learn(self.peers, self.group_id, record)
        self._unread = unread
        if batches:
            for account in self._accounts.values():
                account.wake()
            self.moved()


class LaneAccount:
    """A lane's part of the budgets, from the topic and to it; the lane writes it with its commits."""

    def __init__(self, spending: Spending, partition: int) -> None:
        self._spending = spending
        self._partition = partition
        self._budget: LaneBudget | None = None
        self.wake: Callable[[], None] = lambda: None
        """Called when the account may be due."""

    def sentinel(self) -> Write:
        """To be committed when the lane is taken over: where it is read back, the last owner's word is known."""
        return Write(self._spending.topic, sentinel_key(self._spending.group_id), None, self._partition)

    async def restore(self, connection: Mapping[str, Any], until: int, progress: Callable[[], None]) -> None:
        """Read the lane's last entry up to the sentinel's offset. Raises LaneError for one that cannot be read."""
        partition = TopicPartition(self._spending.topic, self._partition)
        last = _Last(_key(self._spending.group_id, self._partition))
        await restore(connection, partition, until, last, group_id=self._spending.group_id, progress=progress)
        try:
            entry = None if last.value is None else BudgetEntry.model_validate_json(last.value)
        except ValidationError as error:
            raise LaneError(
                f"the last entry of lane {self._partition} in {self._spending.topic} is none ({error}): nobody knows "
                "what it has spent. If nothing in this period, publish a null value under its key"
            ) from error
        self._budget = LaneBudget(self._partition, self._spending.peers, entry)
        self._spending.open(self._partition, self)

    @property
    def budget(self) -> LaneBudget:
        """What may be spent; there once the account has been restored."""
        assert self._budget is not None, "this is a bug: the account was not restored"
        return self._budget

    def is_due(self) -> bool:
        """Whether somebody waits for a commit of it."""
        return self.budget.is_due()

    def writes(self, *, closing: bool) -> list[Write]:
        """What goes with the lane's next commit; ``closing``: the lane will be handed over."""
        entry = self.budget.propose(self._spending.clock(), closing=closing)
        if entry is None:
            return []
        key = _key(self._spending.group_id, self._partition)
        return [Write(self._spending.topic, key, encode(entry), self._partition)]

    def confirmed(self) -> None:
        """That commit went through."""
        self.budget.confirm()
        self._spending.moved()

    def close(self) -> None:
        """The lane is lost, or opens anew: what is out was reserved, and counts as spent."""
        self._spending.close(self._partition, self)

    @contextmanager
    def waiting(self, tenant: str, microusd: int) -> Iterator[None]:
        """Within the block the lane tries to get so much more."""
        with self.budget.waiting(tenant, microusd, self._spending.clock()):
            self.wake()
            yield
        self.wake()  # what it asked the other lanes for may not be wanted any more


class _Purse:
    """One event's access to its lane's account."""

    def __init__(self, spending: Spending, partition: int, tenant: str) -> None:
        self._spending = spending
        self._partition = partition
        self._tenant = tenant

    def exhausted(self, microusd: int) -> Exhausted | None:
        account = self._spending.opened(self._partition)
        return None if account is None else account.budget.exhausted(self._tenant, microusd, self._spending.clock())

    async def reserve(self, microusd: int) -> Grant | Exhausted:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS) as scope:
                while True:
                    account = self._spending.opened(self._partition)
                    if account is None:  # the lane is being opened, or is lost
                        await self._spending.until_moved()
                        continue
                    answer = account.budget.ask(self._tenant, microusd, self._spending.clock())
                    if answer is not None:
                        return answer
                    with account.waiting(self._tenant, microusd):
                        await self._spending.until_moved()
        except TimeoutError:
            if not scope.expired():
                raise
            later = self._spending.clock() + timedelta(seconds=_PATIENCE_SECONDS)
            return Exhausted(later, _PATIENCE_SECONDS)


class _Last:
    """The last value under one key, out of all that is restored."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.value: bytes | None = None

    def apply(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in records:
            if key == self._key:
                self.value = value


def _key(group_id: str, partition: int) -> bytes:
    return f"{group_id}/{partition}".encode()
