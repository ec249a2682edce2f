"""Cancellation, where it must wait, and where it must not be lost."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """The result of work that is bounded by itself; a cancellation is obeyed only when it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def heed_cancellation() -> None:
    """Raise the CancelledError of this task that a library has swallowed.

    Before Python 3.12 ``asyncio.wait_for``, through which every Kafka request goes, returns its result rather than
    obey a cancellation that comes at the same moment (bpo-37658).
    """
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError
