"""One recognition for a dedup key at a time in this process: the first claim leads, equals wait.

Recognitions belong to the process, not to the lane that asked: a lane that goes and comes back, or another one that
gets the same recording, adopts what is running or done. What still waits for its turn when the last who wanted it
leaves is called off: another process may have the partition now, and hear it. What was published and confirmed is let
go, since the dedup slice knows it then.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import takewhile

from opentelemetry.trace import SpanContext

from consumer.core.model import Heard, Urgency
from consumer.errors import RecordingError, TransientError
from consumer.turns import Turns
from schemas.codes import Reason, Route

Result = tuple[Heard, Route]


@dataclass(slots=True)
class Flight:
    """A recognition under way, or done and not yet known to be committed."""

    result: asyncio.Future[Result]
    started_at: float
    urgency: Urgency = field(default_factory=Urgency)
    """That of the most urgent who ever waited for it."""
    task: asyncio.Task[None] | None = None
    begun: bool = False
    """It has cost something: then it goes on whoever leaves."""
    waiting: int = 0
    led_by: SpanContext | None = None
    """The recorded event that leads it, if it is recorded: its trace tells how it went."""
    taken: bool = False
    """Somebody is publishing it as the recognition that was paid; others publish it as cached."""

    def begins(self) -> None:
        """It costs something from now on."""
        self.begun = True


Lead = Callable[[Flight], Awaitable[Result]]
"""Hears the recording as urgently as the flight is at each moment; calls ``begins`` once it costs something."""


@dataclass(slots=True)
class Landing:
    """What a claim ends with. ``first``: this event answers for the cost and writes the dedup entry."""

    heard: Heard
    route: Route
    first: bool
    flight: Flight


@dataclass(frozen=True, slots=True)
class _Condemned:
    """Bytes that cannot be heard, since when and why."""

    since: float
    reason: Reason
    detail: str


@dataclass(slots=True)
class SingleFlight:
    """All flights of the process, by dedup key."""

    tasks: asyncio.TaskGroup
    clock: Callable[[], float]
    failure_ttl_seconds: float
    adoption_ttl_seconds: float = 600.0
    turns: Turns = field(default_factory=Turns)
    _flights: dict[str, Flight] = field(default_factory=dict)
    _condemned: OrderedDict[str, _Condemned] = field(default_factory=OrderedDict)

    async def join(self, key: str, lead: Lead, *, critical: bool = False) -> Landing:
        """Wait for the recognition of ``key``, leading it if nobody does; one that is ``critical`` hurries it.

        A RecordingError settles all who wait, and is remembered for a while. Any other error settles only the one who
        led, and the next leads with its own address. Cancelling a caller never cancels a recognition that has begun.
        """
        self._forget_the_old()
        if condemned := self._condemned.get(key):
            raise RecordingError(condemned.reason, condemned.detail)
        while True:
            flight = self._flights.get(key)
            leading = flight is None
            if flight is None:
                flight = self._take_off(key, lead)
            if critical:
                flight.urgency.raise_to_critical()
            flight.waiting += 1
            try:
                await asyncio.wait([flight.result])
                await self.turns.time_left()  # all who waited wake in one turn
                heard, route = flight.result.result()
            except RecordingError as error:
                self._land_badly(key, flight)
                self._condemned.pop(key, None)  # so that they stay in order of time
                self._condemned[key] = _Condemned(self.clock(), error.reason, error.detail)
                if leading:
                    raise  # with the attempts that it cost
                raise RecordingError(error.reason, error.detail) from error
            except Exception:
                self._land_badly(key, flight)
                if leading:
                    raise
                continue
            finally:
                flight.waiting -= 1
                if not flight.begun:
                    self._call_off(key, flight)
            first, flight.taken = not flight.taken, True
            return Landing(heard, route, first, flight)

    def has(self, key: str) -> bool:
        """Whether a recognition of ``key`` is under way, or done and not yet committed."""
        return key in self._flights

    def confirmed(self, key: str, flight: Flight) -> None:
        """The entry is committed; from now on the dedup slice answers."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    def dropped(self, flight: Flight) -> None:
        """The lane that was to publish it is gone: the next claim answers for the cost."""
        flight.taken = False

    async def abandon(self, key: str) -> None:
        """Somebody has left for good: if nobody waits any more, the recognition is ended, and costs no more."""
        flight = self._flights.get(key)
        if flight is not None and flight.task is not None and self._call_off(key, flight):
            await asyncio.wait([flight.task])

    def running(self) -> int:
        """Recognitions that are not done."""
        return sum(not flight.result.done() for flight in self._flights.values())

    def stop(self) -> None:
        """Nobody will publish what is still running."""
        for flight in self._flights.values():
            if flight.task is not None:
                flight.task.cancel()

    def _call_off(self, key: str, flight: Flight) -> bool:
        if flight.task is None or flight.waiting or flight.result.done():
            return False
        flight.task.cancel()
        self._land_badly(key, flight)
        return True

    def _take_off(self, key: str, lead: Lead) -> Flight:
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        result.add_done_callback(lambda done: done.cancelled() or done.exception())  # all who wait may have left

        async def fly() -> None:
            try:
                result.set_result(await lead(flight))
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    result.cancel()
                    raise
                result.set_exception(TransientError(Reason.ENGINE_FAILED, "the work was cut off; publish it again"))
            except Exception as error:  # noqa: BLE001 (it is handed to those who wait)
                result.set_exception(error)

        flight = self._flights[key] = Flight(result, self.clock())
        flight.task = self.tasks.create_task(fly(), name=f"recognise {key}")
        return flight

    def _land_badly(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _forget_the_old(self) -> None:
        now = self.clock()
        # both are in order of time; and a look costs the same however many there are
        old = takewhile(lambda one: now - one[1].since >= self.failure_ttl_seconds, self._condemned.items())
        for key in [key for key, _ in old]:
            del self._condemned[key]
        aged = takewhile(lambda one: now - one[1].started_at >= self.adoption_ttl_seconds, self._flights.items())
        for key in [key for key, flight in aged if flight.result.done() and not flight.waiting and not flight.taken]:
            del self._flights[key]
