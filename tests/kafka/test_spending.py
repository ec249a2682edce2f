"""Lanes on real Kafka that pay out of one budget: what is reserved outlives whoever reserved it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from consumer.core.budget import EVERYBODY, Exhausted, Grant, Key, Limits, Standing
from consumer.core.model import Record
from consumer.errors import LaneError
from consumer.kafka.client import connection
from consumer.kafka.spending import Spending
from consumer.settings import Settings
from schemas.models import BudgetEntry
from schemas.topics import Topics
from tests.support.kafka import PARTITIONS, Read, Written, read_topic, write_records
from tests.support.lanes import Member, Outcome, ScriptedWork, joined, thief, until

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVERY = set(range(PARTITIONS))


class Paying(ScriptedWork):
    """Pays for each event what its value says, in micro-dollars; ``paid`` is the API's own count."""

    def __init__(self, spending: Spending) -> None:
        super().__init__()
        self.spending = spending
        self.paid: list[int] = []
        self.refused: list[Exhausted] = []

    async def settle(self, record: Record) -> Outcome:
        microusd = int(record.value or b"0")
        answer = await self.spending.purse(record.partition, "default").reserve(microusd)
        if isinstance(answer, Grant):
            self.paid.append(microusd)
            while record.value in self.held:  # the call is under way
                await self._moved.wait()
            answer.settle(microusd)
        else:
            self.refused.append(answer)
        return await super().settle(record)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def paying(
    settings: Settings, day: int, *, clock: Clock | None = None, drain: bool = True
) -> AsyncIterator[tuple[Paying, Member]]:
    """A member whose events are paid out of a day's budget, with all lanes that it will get open."""
    names = settings.topics
    spending = Spending(Limits(day), PARTITIONS, topic=names.budget, group_id=settings.group_id, clock=clock or Clock())
    work = Paying(spending)
    async with joined(settings, work, drain=drain, spending=spending) as member:
        yield work, member


async def publish(settings: Settings, partition: int, amounts: Sequence[int]) -> None:
    records = [Written(str(amount).encode(), partition=partition) for amount in amounts]
    await asyncio.to_thread(write_records, settings.kafka_bootstrap_servers, settings.topics.events, records)


async def entries(settings: Settings) -> list[Read]:
    found = await asyncio.to_thread(read_topic, settings.kafka_bootstrap_servers, settings.topics.budget)
    return [record for record in found if record.value is not None]


def counted(record: Read) -> int:
    """What a lane's entry says is spent of the day."""
    assert record.value is not None
    return sum(account.spent_microusd for account in BudgetEntry.model_validate_json(record.value).accounts)


async def test_two_members_together_spend_all_of_the_budget_and_no_more(
    kafka_settings: Settings, topics: Topics
) -> None:
    async with paying(kafka_settings, 1000) as (first, one), paying(kafka_settings, 1000) as (second, two):
        await until(lambda: one.serving() | two.serving() == EVERY and bool(one.serving()) and bool(two.serving()))
        await publish(kafka_settings, 0, [50] * 30)  # 1500: most of it lies in other lanes' shares
        await until(lambda: len(first.given) + len(second.given) == 30)
        for partition in EVERY:
            await publish(kafka_settings, partition, [50] * 3)
        await until(lambda: len(first.confirmed) + len(second.confirmed) == 30 + 3 * PARTITIONS)
        used_up = [Standing(Key(EVERYBODY, f"{NOON:%Y-%m-%d}"), 1000, 1000)]
        await until(lambda: first.spending.standings() == second.spending.standings() == used_up)
    assert sum(first.paid) + sum(second.paid) == 1000
    until_midnight = [refusal for refusal in (*first.refused, *second.refused) if refusal.wait_seconds > 60]
    assert {refusal.until for refusal in until_midnight} == {NOON.replace(hour=0) + timedelta(days=1)}
    last = {record.partition: record for record in await entries(kafka_settings)}
    assert sum(map(counted, last.values())) == 1000


async def test_what_a_dead_member_had_out_counts_as_spent_and_what_it_had_settled_counts_once(
    kafka_settings: Settings, topics: Topics
) -> None:
    async with paying(kafka_settings, 400, drain=False) as (dead, member):
        await member.until(lambda: member.serving() == EVERY)
        await publish(kafka_settings, 1, [40])
        await member.until(lambda: len(dead.confirmed) == 1)
        dead.held = {b"60"}
        await publish(kafka_settings, 1, [60])
        await member.until(lambda: dead.paid == [40, 60])
    async with paying(kafka_settings, 400) as (heir, member):
        await member.until(lambda: member.serving() == EVERY)
        await publish(kafka_settings, 1, [20] * 20)  # and the 60, which is given again
        await member.until(lambda: len(heir.confirmed) == 21)
    assert heir.paid.count(60) == 1
    assert sum(dead.paid) + sum(heir.paid) <= 400
    # lost are the call that was out and what the lane had reserved ahead, at most as much again
    assert sum(dead.paid) + sum(heir.paid) >= 400 - 60 - 19


async def test_a_fenced_owner_that_does_not_know_it_spends_only_what_it_had_reserved(
    kafka_settings: Settings, topics: Topics
) -> None:
    async with paying(kafka_settings, 400) as (work, member):
        await member.until(lambda: member.serving() == EVERY)
        work.held = {b"30"}
        await publish(kafka_settings, 2, [30])
        await member.until(lambda: work.paid == [30])
        account = work.spending.opened(2)
        assert account is not None
        old = account.budget
        async with thief(kafka_settings, 2):
            assert old.ask("default", 300, NOON) is None, "nothing that is not reserved"
            work.release()
            await member.until(lambda: work.spending.opened(2) is account and account.budget is not old)
        await member.until(lambda: len(work.confirmed) == 1)
    assert work.paid == [30, 30], "the recognition was lost with the lane, and the first call stays paid"
    spent = {record.partition: counted(record) for record in await entries(kafka_settings)}
    assert 60 <= spent[2] <= 90


async def test_a_new_day_begins_with_a_full_budget_and_a_clean_restart_loses_nothing(
    kafka_settings: Settings, topics: Topics
) -> None:
    clock = Clock()
    for _ in range(2):
        async with paying(kafka_settings, 400, clock=clock) as (work, member):
            await member.until(lambda: member.serving() == EVERY)
            await publish(kafka_settings, 3, [200])
            await member.until(lambda: len(work.confirmed) == 1)
        assert work.paid == [200]
    async with paying(kafka_settings, 400, clock=clock) as (work, member):
        await member.until(lambda: member.serving() == EVERY)
        await publish(kafka_settings, 3, [1])
        await member.until(lambda: len(work.confirmed) == 1)
        assert work.paid == []
        clock.now += timedelta(days=1)
        await publish(kafka_settings, 3, [400])
        await member.until(lambda: len(work.confirmed) == 2)
        assert work.paid == [400]


async def test_a_last_word_that_cannot_be_read_is_not_taken_for_none(kafka_settings: Settings, topics: Topics) -> None:
    key = f"{kafka_settings.group_id}/0".encode()
    broken = [Written(b"no entry", key, partition=0)]
    [(_, offset)] = write_records(kafka_settings.kafka_bootstrap_servers, topics.budget, broken)
    spending = Spending(Limits(1), PARTITIONS, topic=topics.budget, group_id=kafka_settings.group_id)
    with pytest.raises(LaneError, match="publish a null value under its key"):
        await spending.account(0).restore(connection(kafka_settings), offset, lambda: None)
