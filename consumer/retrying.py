"""The one retry loop: for fetches and API calls alike."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from consumer.core.backoff import GiveUp, RetryPolicy
from consumer.errors import EventError, MachineError, ServiceError, TransientError
from schemas.codes import Reason

T = TypeVar("T")

OnRetry = Callable[[TransientError, int, float], None]
"""Called before each wait: the error, how many tries failed so far, the seconds to wait."""


class AttemptsExhaustedError(EventError):
    """All tries failed; ``last`` is the last try's error and ``tries`` how many there were."""

    def __init__(self, last: TransientError, tries: int, detail: str) -> None:
        super().__init__(last.reason, detail)
        self.last = last
        self.tries = tries


async def retrying(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    deadline: float | None = None,
    on_retry: OnRetry | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    uniform: Callable[[], float] = random.random,
) -> T:
    """Call until it works; only TransientError is tried again, after a jittered and growing wait.

    ``deadline`` is on ``clock``; no try begins after it, but one that has begun is not cut off: ``call`` bounds
    itself. Raises AttemptsExhaustedError (an EventError with the last error's reason), EventError
    ``deadline_exceeded``, ServiceError where the machine is at fault, or whatever else ``call`` raises.
    """
    tries = 0
    while True:
        if deadline is not None and clock() >= deadline:
            raise EventError(Reason.DEADLINE_EXCEEDED, "the event's deadline passed before a try could begin")
        try:
            return await call()
        except TransientError as error:
            tries += 1
            delay = policy.next_delay(
                tries,
                uniform=uniform(),
                now=clock(),
                retry_after_seconds=error.retry_after_seconds,
                deadline=deadline,
            )
            if isinstance(delay, GiveUp):
                raise _given_up(delay, error, tries) from error
            if on_retry is not None:
                on_retry(error, tries, delay)
        await sleep(delay)


def _given_up(why: GiveUp, error: TransientError, tries: int) -> EventError | ServiceError:
    if isinstance(error, MachineError) and why is GiveUp.ATTEMPTS:
        return ServiceError(error.detail)
    times = "once" if tries == 1 else f"{tries} times"
    given_up: EventError
    if why is GiveUp.DEADLINE:
        given_up = EventError(
            Reason.DEADLINE_EXCEEDED, f"no time is left before the deadline; tried {times}, the last: {error.detail}"
        )
    else:
        asked = error.retry_after_seconds if why is GiveUp.WAIT_TOO_LONG else None
        waiting = f", and the other side asks for {asked:.0f} s of patience" if asked is not None else ""
        given_up = AttemptsExhaustedError(error, tries, f"tried {times}{waiting}; the last: {error.detail}")
    given_up.attempts, given_up.tries = error.attempts, tries
    return given_up
