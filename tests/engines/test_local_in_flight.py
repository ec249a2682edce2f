"""Several batches with one executor: when it is given more, and who is blamed when it dies."""

import asyncio
from collections.abc import Sequence

from consumer.core.batcher import BatchLimits
from consumer.engines.dispatcher import Dispatcher
from consumer.engines.served import Served
from consumer.errors import ReasonedError, RecordingError
from consumer.workers.worker import WorkerDiedError

PAIRS = BatchLimits(padded_seconds=1000.0, max_chunks=2, max_wait_seconds=0.0, queue_seconds=1000.0)
ONES = BatchLimits(padded_seconds=1000.0, max_chunks=1, max_wait_seconds=0.0, queue_seconds=1000.0)


class Device:
    """Holds what it is given until it is told to hear it, or dies with all of it."""

    def __init__(self, *killers: str) -> None:
        self.killers = killers
        self.held: list[tuple[str, asyncio.Future[None]]] = []
        self.given: list[str] = []
        self.beside: dict[str, set[str]] = {}
        """What was ever held together with a batch that was under suspicion."""
        self.executors: list[int] = []

    async def run(self, executor: int, items: list[str]) -> Sequence[str | ReasonedError]:
        batch = "".join(items)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.given.append(batch)
        self.executors.append(executor)
        self.held.append((batch, future))
        self.beside[batch] = {other for other, _ in self.held}
        await future
        return [item.upper() for item in items]

    def hear_one(self) -> None:
        """The oldest batch is done; or all die, if it is a killer's."""
        batch, future = self.held[0]
        if any(killer in batch for killer in self.killers):
            lost, self.held = self.held, []
            for _, one in lost:
                one.set_exception(WorkerDiedError("died", lost_requests=len(lost)))
            return
        self.held.pop(0)
        future.set_result(None)


def dispatcher(device: Device, limits: BatchLimits, executors: int = 1) -> Dispatcher[str, str]:
    made: Dispatcher[str, str] = Dispatcher(limits, device.run, executors=executors, in_flight=2)
    made.start()
    return made


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def submit(to: Dispatcher[str, str], items: str) -> list[asyncio.Task[Served[str]]]:
    return [asyncio.create_task(to.submit(item, 1.0)) for item in items]


async def hear_all(device: Device) -> None:
    while device.held:
        device.hear_one()
        await settle()


async def outcomes(tasks: list[asyncio.Task[Served[str]]]) -> list[str | BaseException]:
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [one.value if isinstance(one, Served) else one for one in done]


async def test_a_busy_executor_is_given_the_next_batch_once_one_is_full_and_no_third() -> None:
    device = Device()
    to = dispatcher(device, PAIRS)
    tasks = submit(to, "ab")
    await settle()
    assert device.given == ["ab"]
    tasks += submit(to, "c")
    await settle()
    assert device.given == ["ab"], "a lone chunk gathers company while the executor is busy"
    tasks += submit(to, "def")
    await settle()
    assert device.given == ["ab", "cd"]
    device.hear_one()
    await settle()
    assert device.given == ["ab", "cd", "ef"], "the executor is never without its next batch"
    await hear_all(device)
    assert await outcomes(tasks) == list("ABCDEF")
    await to.stop()


async def test_what_gathered_goes_as_soon_as_the_executor_is_free() -> None:
    device = Device()
    to = dispatcher(device, PAIRS)
    tasks = submit(to, "ab")
    await settle()
    tasks += submit(to, "c")
    await settle()
    device.hear_one()
    await settle()
    assert device.given == ["ab", "c"]
    await hear_all(device)
    await asyncio.gather(*tasks)
    await to.stop()


async def test_full_batches_go_to_an_idle_executor_before_they_queue_at_a_busy_one() -> None:
    device = Device()
    to = dispatcher(device, PAIRS, executors=2)
    tasks = submit(to, "abcdefgh")
    await settle()
    assert sorted(device.executors[:2]) == [0, 1]
    assert sorted(device.executors) == [0, 0, 1, 1]
    await hear_all(device)
    await asyncio.gather(*tasks)
    await to.stop()


async def test_a_neighbour_of_a_killer_is_heard_and_never_blamed() -> None:
    device = Device("k")
    to = dispatcher(device, ONES)
    tasks = submit(to, "kn")
    await settle()
    assert device.given == ["k", "n"]
    await hear_all(device)
    killed, neighbour = await outcomes(tasks)
    assert neighbour == "N"
    assert isinstance(killed, RecordingError)
    assert device.given.count("k") == 3, "beside its neighbour once, and twice alone"
    await to.stop()


async def test_what_was_lost_is_run_again_with_nothing_beside_it() -> None:
    device = Device("k")
    to = dispatcher(device, PAIRS)
    tasks = submit(to, "akcdefgh")
    await settle()
    assert device.given == ["ak", "cd"]
    device.hear_one()
    await settle()
    await hear_all(device)
    said = await outcomes(tasks)
    assert isinstance(said.pop(1), RecordingError)
    assert said == list("ACDEFGH")
    for suspect in "akcd":
        assert device.beside[suspect] == {suspect}
    await to.stop()


async def test_time_that_a_batch_waited_with_the_executor_is_not_counted_as_its_run() -> None:
    now = 0.0
    device = Device()
    to: Dispatcher[str, str] = Dispatcher(ONES, device.run, in_flight=2, clock=lambda: now)
    to.start()
    first, second = submit(to, "ab")
    await settle()
    now = 3.0
    device.hear_one()
    await settle()
    now = 4.0
    device.hear_one()
    assert ((await first).started, (await first).engine_seconds) == (0.0, 3.0)
    assert ((await second).started, (await second).engine_seconds) == (3.0, 1.0)
    await to.stop()


async def test_stopping_leaves_nobody_waiting_for_an_executor_in_doubt() -> None:
    device = Device("k")
    to = dispatcher(device, ONES)
    tasks = submit(to, "knm")
    await settle()
    device.hear_one()
    await settle()
    await to.stop()
    assert all(isinstance(outcome, ReasonedError) for outcome in await outcomes(tasks))
