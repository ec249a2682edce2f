"""Outcomes are written out and confirmed in many turns of the event loop, and none of them is forgotten."""

import asyncio
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from consumer.core.outcomes import Moment, Write
from consumer.kafka.lane_parts import LaneParts
from consumer.kafka.outbox import Outbox
from consumer.settings import Settings
from consumer.turns import Turns
from schemas.topics import Topics


class Stage:
    """An outbox on a clock of its own, and what was done in which turn of the loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn = 0
        self.written: Counter[int] = Counter()
        self.confirmed: Counter[int] = Counter()
        unused = cast("Any", None)
        turns = Turns(5.0, lambda: self.now)
        self.outbox = Outbox(LaneParts(Settings(), unused, unused, unused, unused, 1_000_000, turns=turns))
        for number in range(200):
            self.outbox.add(_Outcome(self, number))

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@dataclass(slots=True, weakref_slot=True)
class _Outcome:
    """Takes a second to write out, and a second to confirm."""

    stage: Stage
    offset: int
    since: float = 0.0

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]:
        assert (moment.commit_seconds >= 0.0, limit_bytes) == (True, 1_000_000)
        self.stage.now += 1.0
        self.stage.written[self.stage.turn] += 1
        return [Write(topics.transcripts, b"%d" % self.offset, b"{}")]

    def confirmed(self, writes: list[Write]) -> None:
        assert writes[0].key == b"%d" % self.offset
        self.stage.now += 1.0
        self.stage.confirmed[self.stage.turn] += 1

    def dropped(self) -> None:
        raise AssertionError("it is committed")


async def test_a_commit_is_prepared_and_confirmed_a_few_outcomes_in_each_turn() -> None:
    stage = Stage()
    counting = asyncio.create_task(stage.count_turns())
    assert len(await stage.outbox.take()) == 200
    assert max(stage.written.values()) <= 6
    await stage.outbox.confirm()
    counting.cancel()
    assert stage.confirmed.total() == 200
    assert max(stage.confirmed.values()) <= 6


async def test_what_is_committed_is_confirmed_although_the_lane_is_cancelled_meanwhile() -> None:
    stage = Stage()
    await stage.outbox.take()
    confirming = asyncio.create_task(stage.outbox.confirm())
    await asyncio.sleep(0)
    assert 0 < stage.confirmed.total() < 200
    confirming.cancel()
    await asyncio.wait([confirming])
    assert confirming.cancelled()
    assert stage.confirmed.total() == 200
    stage.outbox.drop()


async def test_what_is_confirmed_is_let_go_in_its_own_turn() -> None:
    stage = Stage()
    await stage.outbox.take()
    there = [weakref.ref(outcome) for outcome in stage.outbox._committing]
    confirming = asyncio.create_task(stage.outbox.confirm())
    await asyncio.sleep(0)
    confirmed = stage.confirmed.total()
    assert 0 < confirmed < 200
    assert sum(outcome() is None for outcome in there) == confirmed
    await confirming
