"""The guard itself: what a test leaves behind is found."""

import asyncio
import subprocess
import sys

import pytest

from tests.support import leftovers


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_SETTLE_SECONDS", 0.05)


async def test_a_task_that_outlives_its_block_is_found() -> None:
    async with leftovers.watched_loop() as faults:
        task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
        await asyncio.sleep(0)
    task.cancel()
    assert [fault for fault in faults if "forgotten" in fault]


async def test_an_error_that_nobody_retrieved_is_found() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with leftovers.watched_loop() as faults:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
    assert ["ZeroDivisionError" in fault for fault in faults] == [True]


async def test_what_is_finished_in_time_is_fine() -> None:
    async with leftovers.watched_loop() as faults:
        await asyncio.create_task(asyncio.sleep(0))
    assert faults == []


def test_a_child_process_is_found_until_it_is_reaped() -> None:
    before = leftovers.child_processes()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert list(leftovers.new_children(before, set())) == [process.pid]
        assert leftovers.new_children(before, {process.pid}) == {}
    assert leftovers.new_children(before, set()) == {}
