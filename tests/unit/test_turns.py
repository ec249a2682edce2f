"""Nobody works on and on in one turn of the event loop, and nobody waits for ever."""

import asyncio
from collections import Counter

from consumer.turns import CROWD, Turns


class Work:
    """Items that take a second each on a clock of their own; the event loop's turns are counted."""

    def __init__(self, turn_seconds: float) -> None:
        self.now = 0.0
        self.turns = Turns(turn_seconds, lambda: self.now)
        self.turn = 0
        self.done: list[tuple[str, int]] = []

    def item(self, name: str) -> None:
        self.now += 1.0
        self.done.append((name, self.turn))

    async def many(self, name: str, count: int) -> None:
        for _ in range(count):
            await self.turns.time_left()
            self.item(name)

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    def most_in_a_turn(self) -> int:
        return max(Counter(turn for _, turn in self.done).values())


async def done_by(work: Work, *workers: tuple[str, int]) -> list[tuple[str, int]]:
    counting = asyncio.create_task(work.count_turns())
    async with asyncio.TaskGroup() as group:
        for name, count in workers:
            group.create_task(work.many(name, count))
    counting.cancel()
    return work.done


async def test_one_that_has_much_to_do_leaves_the_loop_after_the_time_of_a_turn() -> None:
    work = Work(5.0)
    await done_by(work, ("a", 100))
    assert work.most_in_a_turn() == 5


async def test_all_together_do_no_more_in_a_turn_than_one() -> None:
    work = Work(5.0)
    done = await done_by(work, *((f"{number}", 20) for number in range(10)), *((f"once {n}", 1) for n in range(100)))
    assert len(done) == 300
    # the one that has waited longest goes on in any case
    assert work.most_in_a_turn() <= 6


async def test_whoever_waits_gets_on_in_the_end_though_others_have_work_without_end() -> None:
    work = Work(5.0)
    async with asyncio.TaskGroup() as group:
        greedy = [group.create_task(work.many(f"{number}", 1_000_000)) for number in range(3)]
        late = [group.create_task(work.many("late", 5)) for _ in range(4)]
        await asyncio.wait(late)
        for task in greedy:
            task.cancel()


async def test_a_crowd_is_noticed_and_those_who_give_up_are_forgotten() -> None:
    work = Work(1.0)
    tasks = [asyncio.create_task(work.many("a", 1)) for _ in range(1 + CROWD)]
    await asyncio.sleep(0)
    assert len(work.done) == 1
    assert work.turns.crowded
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(work.done) == 1
    assert not work.turns.crowded
