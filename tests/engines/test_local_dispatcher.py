"""The dispatcher: every submit is answered, whatever happens to its batch."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from consumer.core.batcher import BatchLimits, Closed
from consumer.core.model import Urgency
from consumer.engines.dispatcher import Dispatcher
from consumer.engines.served import BatchReport, Served
from consumer.errors import ReasonedError, RecordingError, TransientError
from consumer.workers.worker import WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

LIMITS = BatchLimits(padded_seconds=1000.0, max_chunks=8, max_wait_seconds=0.01, queue_seconds=1000.0)
Answers = Sequence[str | ReasonedError]


class Executor:
    """Upper-cases its items; ``faults`` says what an item does to the batch that holds it, as often as listed."""

    def __init__(self, **faults: list[Exception]) -> None:
        self.batches: list[list[str]] = []
        self.faults = faults
        self.go = asyncio.Event()
        self.go.set()
        self.entered = asyncio.Event()

    async def run(self, slot: int, items: list[str]) -> Answers:
        self.batches.append(items)
        self.entered.set()
        await self.go.wait()
        for item in items:
            if self.faults.get(item):
                raise self.faults[item].pop(0)
        return [item.upper() for item in items]


@asynccontextmanager
async def serving(
    executor: Executor,
    limits: BatchLimits = LIMITS,
    observe: Callable[[BatchReport[str]], None] = lambda _: None,
    probe: str | None = None,
) -> AsyncIterator[Dispatcher[str, str]]:
    dispatcher: Dispatcher[str, str] = Dispatcher(limits, executor.run, probe=probe, observe=observe)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.stop()


async def submit_all(dispatcher: Dispatcher[str, str], items: str) -> dict[str, str | BaseException]:
    outcomes = await asyncio.gather(*(dispatcher.submit(item, 1.0) for item in items), return_exceptions=True)
    return {
        item: outcome.value if isinstance(outcome, Served) else outcome
        for item, outcome in zip(items, outcomes, strict=True)
    }


def died() -> WorkerDiedError:
    return WorkerDiedError("the child died of SIGSEGV")


async def test_many_callers_share_a_batch() -> None:
    executor, reports = Executor(), list[BatchReport[str]]()
    async with serving(executor, observe=reports.append) as dispatcher:
        assert await submit_all(dispatcher, "abc") == {"a": "A", "b": "B", "c": "C"}
        assert dispatcher.pending == 0
        assert dispatcher.closed_batches() == {Closed.DEADLINE: 1}
    assert executor.batches == [["a", "b", "c"]]
    (report,) = reports
    assert (report.items, report.closed) == (["a", "b", "c"], Closed.DEADLINE)
    assert (report.audio_seconds, report.padded_seconds) == (3.0, 3.0)


async def test_a_batch_knows_for_whom_each_of_its_chunks_was_submitted() -> None:
    asker: ContextVar[str] = ContextVar("asker")
    reports = list[BatchReport[str]]()

    async def ask(dispatcher: Dispatcher[str, str], item: str) -> None:
        asker.set(f"event of {item}")
        await dispatcher.submit(item, 1.0)

    async with serving(Executor(), observe=reports.append) as dispatcher:
        await asyncio.gather(*(ask(dispatcher, item) for item in "abc"))
    (report,) = reports
    assert [context[asker] for context in report.contexts] == ["event of a", "event of b", "event of c"]
    assert report.slots == 1


async def test_an_answer_comes_with_its_times_and_its_share_of_the_engine() -> None:
    executor = Executor()
    async with serving(executor) as dispatcher:
        one, two = await asyncio.gather(dispatcher.submit("a", 6.0), dispatcher.submit("b", 5.25))
    assert one.submitted <= one.started <= one.finished
    run = one.finished - one.started
    assert one.engine_seconds == pytest.approx(run * 6.0 / 11.25)
    assert two.engine_seconds == pytest.approx(run * 5.25 / 11.25)
    assert dispatcher.last_good_batch_at == one.finished


async def test_chunks_whose_child_was_killed_are_handed_in_again() -> None:
    executor, reports = Executor(b=[died()]), list[BatchReport[str]]()
    async with serving(executor, observe=reports.append) as dispatcher:
        assert await submit_all(dispatcher, "abcd") == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert executor.batches == [list("abcd"), ["a", "b"], ["c", "d"]]
    told = [(report.items, report.failed) for report in reports]
    assert told == [(list("abcd"), "WorkerDiedError"), (["a", "b"], None), (["c", "d"], None)]


async def test_a_chunk_that_kills_every_child_is_poison_and_its_neighbours_are_heard() -> None:
    executor = Executor(f=[died() for _ in range(20)])
    async with serving(executor) as dispatcher:
        outcomes = await submit_all(dispatcher, "abcdefgh")
    poison = outcomes.pop("f")
    assert isinstance(poison, RecordingError)
    assert poison.reason is Reason.POISON
    assert outcomes == {item: item.upper() for item in "abcdegh"}
    assert executor.batches.count(["f"]) == 2, "alone it is tried twice: once may be somebody else's kill"


async def test_a_chunk_that_the_model_cannot_stomach_is_isolated_at_its_first_failure_alone() -> None:
    executor = Executor(c=[WorkerFaultError("ValueError", "not finite") for _ in range(9)])
    async with serving(executor) as dispatcher:
        outcomes = await submit_all(dispatcher, "abcd")
    assert isinstance(outcomes["c"], RecordingError)
    assert [outcomes[item] for item in "abd"] == ["A", "B", "D"]
    assert executor.batches.count(["c"]) == 1


async def test_when_everything_is_poison_the_engine_is_blamed_and_no_recording() -> None:
    async def run(slot: int, items: list[str]) -> Answers:
        if "good" in items:
            return ["GOOD"]
        raise WorkerFaultError("LookupError", "broken")

    limits = BatchLimits(padded_seconds=9.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=99.0)
    dispatcher: Dispatcher[str, str] = Dispatcher(limits, run)
    dispatcher.start()
    outcomes = await submit_all(dispatcher, "abcde")
    assert [type(outcome) for outcome in outcomes.values()] == [RecordingError] * 3 + [TransientError] * 2
    assert (await dispatcher.submit("good", 1.0)).value == "GOOD"
    assert isinstance((await submit_all(dispatcher, "f"))["f"], RecordingError)
    await dispatcher.stop()


async def test_an_engine_that_cannot_be_had_is_nobodys_fault() -> None:
    error = TransientError(Reason.ENGINE_FAILED, "backing off", retry_after_seconds=3.0)
    executor = Executor(a=[error])
    async with serving(executor) as dispatcher:
        outcomes = await submit_all(dispatcher, "ab")
        assert await submit_all(dispatcher, "ab") == {"a": "A", "b": "B"}
    for outcome in outcomes.values():
        assert isinstance(outcome, TransientError)
        assert (outcome.reason, outcome.retry_after_seconds) == (Reason.ENGINE_FAILED, 3.0)
    assert outcomes["a"] is not outcomes["b"]


@pytest.mark.parametrize(
    "error",
    [
        TransientError(Reason.ENGINE_FAILED, "backing off", retry_after_seconds=3.0),
        WorkerDiedError("killed", lost_requests=1),
    ],
    ids=["cannot be had", "dies over a probe too"],
)
async def test_while_one_of_two_executors_is_down_the_other_serves_all(error: TransientError) -> None:
    asked: list[int] = []

    async def run(number: int, items: list[str]) -> Answers:
        asked.append(number)
        await asyncio.sleep(0)
        if number == 0:
            raise error
        return [item.upper() for item in items]

    limits = BatchLimits(padded_seconds=1000.0, max_chunks=2, max_wait_seconds=0.0, queue_seconds=1000.0)
    dispatcher: Dispatcher[str, str] = Dispatcher(limits, run, executors=2, in_flight=2, probe="probe")
    dispatcher.start()
    try:
        outcomes = await submit_all(dispatcher, "abcdefghijklmnopqrst")
    finally:
        await dispatcher.stop()

    assert outcomes == {item: item.upper() for item in "abcdefghijklmnopqrst"}
    assert asked.count(0) <= 4


async def test_one_items_own_error_is_its_own() -> None:
    own = RecordingError(Reason.CORRUPT_AUDIO, "cut short")

    async def run(slot: int, items: list[str]) -> Answers:
        return [own if item == "b" else item.upper() for item in items]

    dispatcher: Dispatcher[str, str] = Dispatcher(LIMITS, run)
    dispatcher.start()
    assert await submit_all(dispatcher, "abc") == {"a": "A", "b": own, "c": "C"}
    await dispatcher.stop()


async def test_whatever_the_executor_raises_no_caller_is_left_waiting() -> None:
    async def run(slot: int, items: list[str]) -> Answers:
        return ["only one"] if len(items) > 1 or items == ["b"] else []

    dispatcher: Dispatcher[str, str] = Dispatcher(LIMITS, run)
    dispatcher.start()
    outcomes = await submit_all(dispatcher, "ab")
    assert isinstance(outcomes["a"], RecordingError)
    assert outcomes["b"] == "only one"
    await dispatcher.stop()


async def test_submitters_wait_while_the_queue_is_full_and_critical_ones_go_first() -> None:
    executor = Executor()
    executor.go.clear()
    limits = BatchLimits(padded_seconds=1.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=2.0)
    async with serving(executor, limits) as dispatcher, asyncio.TaskGroup() as group:
        group.create_task(dispatcher.submit("running", 1.0))
        await executor.entered.wait()
        for item in ("queued", "queued too", "outside", "outside too"):
            group.create_task(dispatcher.submit(item, 1.0))
        group.create_task(dispatcher.submit("critical", 1.0, urgency=Urgency(critical=True)))
        await asyncio.sleep(0)  # every task takes its first step
        assert dispatcher.pending == 6
        assert (dispatcher.full, dispatcher.queued_audio_seconds) == (True, 2.0)
        executor.go.set()
    order = [item for batch in executor.batches for item in batch]
    assert order.index("critical") < order.index("outside") < order.index("outside too")
    assert order[:2] == ["running", "queued"]


async def test_a_chunk_that_becomes_critical_overtakes_what_is_not_wherever_it_waits() -> None:
    executor = Executor()
    executor.go.clear()
    limits = BatchLimits(padded_seconds=1.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=3.0)
    queued, outside = Urgency(), Urgency()
    async with serving(executor, limits) as dispatcher, asyncio.TaskGroup() as group:
        group.create_task(dispatcher.submit("running", 1.0))
        await executor.entered.wait()
        group.create_task(dispatcher.submit("first", 1.0))
        group.create_task(dispatcher.submit("queued", 1.0, urgency=queued))
        for item in ("third", "fourth"):
            group.create_task(dispatcher.submit(item, 1.0))
        group.create_task(dispatcher.submit("outside", 1.0, urgency=outside))
        await asyncio.sleep(0)  # every task takes its first step
        queued.raise_to_critical()
        outside.raise_to_critical()
        executor.go.set()
    order = [item for batch in executor.batches for item in batch]
    assert order[:2] == ["running", "queued"]
    assert order.index("outside") < order.index("fourth")


DIED = WorkerDiedError("killed", lost_requests=1)


async def test_an_executor_that_dies_over_a_probe_too_condemns_nobody_and_all_may_go_elsewhere_at_once() -> None:
    executor = Executor(a=[DIED], probe=[DIED])
    async with serving(executor, probe="probe") as dispatcher:
        outcomes = await submit_all(dispatcher, "abcdefghij")
    assert {type(outcome) for outcome in outcomes.values()} == {TransientError}
    assert [len(batch) for batch in executor.batches] == [8, 1]


async def test_a_chunk_that_kills_an_executor_which_a_probe_finds_well_is_poison() -> None:
    executor = Executor(c=[DIED] * 9)
    async with serving(executor, probe="probe") as dispatcher:
        outcomes = await submit_all(dispatcher, "abcd")
    assert isinstance(outcomes.pop("c"), RecordingError)
    assert outcomes == {"a": "A", "b": "B", "d": "D"}


async def test_a_cancelled_submitters_chunk_is_not_computed() -> None:
    executor = Executor()
    executor.go.clear()
    limits = BatchLimits(padded_seconds=9.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=1.0)
    async with serving(executor, limits) as dispatcher:
        running = asyncio.create_task(dispatcher.submit("running", 1.0))
        await executor.entered.wait()
        tasks = [asyncio.create_task(dispatcher.submit(item, 1.0)) for item in ("queued", "outside", "kept")]
        await asyncio.sleep(0)  # every task takes its first step
        assert dispatcher.pending == 4
        for task in tasks[:2]:
            task.cancel()
        await asyncio.wait(tasks[:2])
        executor.go.set()
        assert [(await task).value for task in (running, tasks[2])] == ["RUNNING", "KEPT"]
    assert executor.batches == [["running"], ["kept"]]


async def test_stopping_answers_everyone_and_refuses_newcomers() -> None:
    executor = Executor()
    executor.go.clear()
    limits = BatchLimits(padded_seconds=9.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=1.0)
    async with serving(executor, limits) as dispatcher:
        tasks = [asyncio.create_task(dispatcher.submit(item, 1.0)) for item in "abc"]
        await executor.entered.wait()
        await dispatcher.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TransientError] * 3
        with pytest.raises(TransientError, match="stopping"):
            await dispatcher.submit("late", 1.0)


async def test_draining_does_not_wait_for_company() -> None:
    executor = Executor()
    limits = BatchLimits(padded_seconds=99.0, max_chunks=9, max_wait_seconds=3600.0, queue_seconds=99.0)
    async with serving(executor, limits) as dispatcher:
        task = asyncio.create_task(dispatcher.submit("a", 1.0))
        await asyncio.sleep(0)  # the task takes its first step
        assert dispatcher.pending == 1
        await dispatcher.drain()
        assert (await task).value == "A"
        assert dispatcher.closed_batches() == {Closed.DRAIN: 1}


async def test_a_broken_dispatcher_tells_those_who_wait() -> None:
    """Not reachable by design; but a future that is never resolved would stop a lane for good."""
    executor = Executor()

    def broken(report: BatchReport[str]) -> None:
        raise RuntimeError("observer")

    async with serving(executor, BatchLimits(1.0, 1, 0.0, 99.0), observe=broken) as dispatcher:
        outcomes = await submit_all(dispatcher, "ab")
    assert outcomes["a"] == "A"
    assert isinstance(outcomes["b"], TransientError)


async def test_a_cancellation_that_nobody_asked_for_leaves_no_caller_waiting() -> None:
    async def cut_off(slot: int, items: list[str]) -> Answers:
        raise asyncio.CancelledError  # as the request of a child that is being stopped ends

    dispatcher: Dispatcher[str, str] = Dispatcher(LIMITS, cut_off)
    dispatcher.start()
    async with asyncio.timeout(30):
        outcomes = await submit_all(dispatcher, "ab")
    await dispatcher.stop()
    assert all(isinstance(outcome, TransientError) for outcome in outcomes.values())
