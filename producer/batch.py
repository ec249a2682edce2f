"""Publishes many recordings side by side, and waits for what becomes of them."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator

from producer.errors import PublishError
from producer.manifest import Wanted
from producer.publisher import Publisher, Receipt
from producer.results import Results
from schemas.models import DeadLetter, Transcript

CONCURRENCY = 32
_NAMED_IDS = 5


async def publish_all(
    publisher: Publisher,
    wanted: Iterable[Wanted],
    *,
    on_receipt: Callable[[Receipt], None],
    expect: Callable[[str], None] = lambda _event_id: None,
) -> int:
    """Publish everything, some of it side by side; returns how many.

    ``expect`` hears of each event's id before it is published. Raises the first PublishError; what was published
    until then stays published.
    """
    waiting, count = iter(wanted), 0

    async def work() -> None:
        nonlocal count
        for item in waiting:  # shared: each worker takes the next one
            event_id = item.fields.get("event_id") or str(uuid.uuid4())
            expect(event_id)
            on_receipt(await publisher.publish(item.source, **{**item.fields, "event_id": event_id}))
            count += 1

    await _together(work() for _ in range(CONCURRENCY))
    return count


async def publish_and_wait(
    publisher: Publisher,
    results: Results,
    wanted: Iterable[Wanted],
    *,
    timeout_seconds: float,
    on_receipt: Callable[[Receipt], None],
    on_outcome: Callable[[Transcript | DeadLetter], None],
) -> int:
    """Publish everything and hear of each outcome as it comes; ``timeout_seconds`` counts from the last publishing.

    Returns how many were published. Raises PublishError, also for events without an outcome in time.
    """

    async def listen() -> None:
        async for outcome in results.outcomes():
            on_outcome(outcome)

    listening = asyncio.create_task(listen(), name="outcomes")
    try:
        count = await publish_all(publisher, wanted, on_receipt=on_receipt, expect=results.expect)
        results.no_more()
        async with asyncio.timeout(timeout_seconds):
            await listening
    except TimeoutError as error:
        raise PublishError(f"no outcome within {timeout_seconds:g} s for {_listed(results.waiting)}") from error
    finally:
        listening.cancel()
        await asyncio.wait([listening])
    return count


async def _together(work: Iterator[object]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for piece in work:
                group.create_task(piece)  # type: ignore[arg-type]
    except* PublishError as errors:
        raise errors.exceptions[0] from None


def _listed(event_ids: frozenset[str]) -> str:
    named = ", ".join(sorted(event_ids)[:_NAMED_IDS])
    more = len(event_ids) - _NAMED_IDS
    return f"{named} and {more} more" if more > 0 else named
