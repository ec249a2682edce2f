"""One recognition at a time for a key: who leads, who waits, who pays, who fails."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumer.core.model import Heard, Urgency
from consumer.dedup.single_flight import Flight, Landing, Result, SingleFlight
from consumer.errors import EventError, RecordingError
from consumer.turns import Turns
from schemas.codes import Reason, Route
from schemas.models import EngineRef, Recognised

HEARD = Heard(Recognised(text="hello", engine=EngineRef(name="x", model="m"), audio_seconds=1.0), 0.5)


class Stage:
    """Recognitions that end when the test says how."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.now = 0.0
        self.has_turn = True
        self.flights = SingleFlight(tasks, lambda: self.now, failure_ttl_seconds=10.0, adoption_ttl_seconds=100.0)
        self.urgency = Urgency()
        self.leads: list[asyncio.Future[Result]] = []
        self.landings: list[asyncio.Task[Landing]] = []

    async def join(self, key: str = "key", *, critical: bool = False) -> asyncio.Task[Landing]:
        """Another event with the same key, as far as it gets by itself."""
        task = asyncio.create_task(self.flights.join(key, self.lead, critical=critical))
        await self.settle()
        return task

    async def lead(self, flight: Flight) -> Result:
        self.leads.append(asyncio.get_running_loop().create_future())
        self.urgency = flight.urgency
        if self.has_turn:
            flight.begins()
        return await self.leads[-1]

    def hear(self) -> None:
        self.leads[-1].set_result((HEARD, Route.LOCAL))

    def fail(self, error: Exception) -> None:
        self.leads[-1].set_exception(error)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with asyncio.TaskGroup() as tasks:
        stage = Stage(tasks)
        yield stage
        stage.flights.stop()


async def test_the_first_leads_equals_wait_and_only_one_answers_for_the_cost(stage: Stage) -> None:
    tasks = [await stage.join() for _ in range(5)]
    assert (len(stage.leads), stage.flights.running()) == (1, 1)
    stage.hear()
    landings = [await task for task in tasks]
    assert [landing.first for landing in landings] == [True, False, False, False, False]
    assert {landing.heard.recognised.text for landing in landings} == {"hello"}


async def test_until_it_is_confirmed_a_result_is_taken_from_the_flight(stage: Stage) -> None:
    first = await stage.join()
    stage.hear()
    landing = await first
    assert not (await (await stage.join())).first
    stage.flights.confirmed("key", landing.flight)
    await stage.join()
    assert len(stage.leads) == 2
    stage.hear()


async def test_bytes_at_fault_settle_all_who_wait_and_are_remembered_for_a_while(stage: Stage) -> None:
    tasks = [await stage.join() for _ in range(3)]
    stage.fail(RecordingError(Reason.CORRUPT_AUDIO, "noise"))
    for task in (*tasks, await stage.join()):
        with pytest.raises(RecordingError, match="noise"):
            await task
    assert len(stage.leads) == 1
    stage.now = 10.0
    again = await stage.join()
    assert len(stage.leads) == 2
    stage.hear()
    assert (await again).first


async def test_an_event_at_fault_settles_only_itself_and_the_next_leads(stage: Stage) -> None:
    first, second, third = [await stage.join() for _ in range(3)]
    stage.fail(EventError(Reason.NOT_FOUND, "not here"))
    with pytest.raises(EventError, match="not here"):
        await first
    await stage.settle()
    assert len(stage.leads) == 2
    stage.hear()
    assert sorted([(await second).first, (await third).first]) == [False, True]


async def test_a_recognition_is_as_urgent_as_the_most_urgent_who_waits_for_it(stage: Stage) -> None:
    await stage.join()
    await stage.join()
    assert not stage.urgency.critical
    raised: list[bool] = []
    with stage.urgency.listen(lambda: raised.append(True)):
        await stage.join(critical=True)
        await stage.join(critical=True)
        await stage.join()
    assert stage.urgency.critical
    assert raised == [True]
    stage.hear()


async def test_the_recognition_that_follows_a_failed_one_is_urgent_if_one_who_still_waits_is(stage: Stage) -> None:
    leads, follows, urgent = await stage.join(), await stage.join(), await stage.join(critical=True)
    stage.fail(EventError(Reason.NOT_FOUND, "not here"))
    with pytest.raises(EventError, match="not here"):
        await leads
    await stage.settle()
    assert (len(stage.leads), stage.urgency.critical) == (2, True)
    stage.hear()
    await follows
    await urgent


async def test_a_leader_that_leaves_does_not_end_the_recognition(stage: Stage) -> None:
    first, second = await stage.join(), await stage.join()
    first.cancel()
    await stage.settle()
    stage.hear()
    assert (await second).first
    assert len(stage.leads) == 1


async def test_a_recognition_that_everybody_left_is_adopted_by_whoever_comes_next(stage: Stage) -> None:
    first = await stage.join()
    first.cancel()
    stage.hear()
    await stage.settle()
    assert (await (await stage.join())).first
    assert len(stage.leads) == 1


async def test_what_waits_for_its_turn_is_called_off_when_the_last_who_wanted_it_leaves(stage: Stage) -> None:
    stage.has_turn = False
    first, second = await stage.join(), await stage.join()
    first.cancel()
    await stage.settle()
    assert not stage.leads[0].done()
    second.cancel()
    await stage.settle()
    assert stage.leads[0].cancelled()
    stage.has_turn = True
    third = await stage.join()
    stage.hear()
    assert (await third).first
    assert len(stage.leads) == 2


async def test_a_failure_that_nobody_waited_for_harms_nobody(stage: Stage) -> None:
    first = await stage.join()
    first.cancel()
    await stage.settle()
    stage.fail(EventError(Reason.NOT_FOUND, "not here"))
    await stage.settle()
    second = await stage.join()
    assert len(stage.leads) == 2
    stage.hear()
    assert (await second).first


async def test_when_the_publisher_of_a_result_is_lost_the_next_answers_for_the_cost(stage: Stage) -> None:
    first = await stage.join()
    stage.hear()
    stage.flights.dropped((await first).flight)
    assert (await (await stage.join())).first
    assert len(stage.leads) == 1


async def test_a_result_that_nobody_took_is_forgotten_in_the_end(stage: Stage) -> None:
    first = await stage.join()
    first.cancel()
    stage.hear()
    await stage.settle()
    stage.now = 100.0
    await stage.join()
    assert len(stage.leads) == 2
    stage.hear()


async def test_stopping_ends_what_runs(stage: Stage) -> None:
    task = await stage.join()
    stage.flights.stop()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.flights.running() == 0


async def test_all_who_waited_do_not_go_on_in_one_turn_of_the_loop(stage: Stage) -> None:
    stage.flights.turns = Turns(5.0, lambda: stage.now)
    turns, turn = Counter[int](), 0

    async def follow() -> None:
        await stage.flights.join("key", stage.lead)
        stage.now += 1.0  # what is done for it then
        turns[turn] += 1

    followers = [asyncio.create_task(follow()) for _ in range(200)]
    await stage.settle()
    stage.hear()
    while not all(task.done() for task in followers):
        turn += 1
        await asyncio.sleep(0)
    assert sum(turns.values()) == 200
    assert max(turns.values()) <= 6


async def test_joining_looks_at_what_has_run_out_and_not_at_all_that_is_remembered(stage: Stage) -> None:
    looked_at = 0

    class Counting(OrderedDict[str, Any]):
        def items(self) -> Any:
            nonlocal looked_at
            for item in super().items():
                looked_at += 1
                yield item

    stage.flights._condemned = Counting()
    for number in range(1_000):
        stage.now += 0.001
        task = await stage.join(str(number))
        stage.fail(RecordingError(Reason.CORRUPT_AUDIO, "noise"))
        await asyncio.wait([task])
        assert task.exception() is not None
    assert len(stage.flights._condemned) == 1_000
    assert looked_at <= 1_000
