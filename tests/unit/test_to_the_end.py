"""A cancellation waits for work that must not be cut, and is not lost in a library."""

import asyncio

import pytest

from consumer.to_the_end import heed_cancellation, to_the_end


async def test_a_cancellation_is_obeyed_once_the_work_is_done() -> None:
    began, may_end, done = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal done
        began.set()
        await may_end.wait()
        done = True

    task = asyncio.create_task(to_the_end(work()))
    await began.wait()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_a_cancellation_that_was_swallowed_is_heeded_after_all() -> None:
    began = asyncio.Event()

    async def swallows() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heed_cancellation()

    task = asyncio.create_task(swallows())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_not_cancelled_goes_on() -> None:
    heed_cancellation()
