"""Two engines behind one face: the configured one, and the API that stands in while it is down."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from consumer.core.backoff import RetryPolicy
from consumer.core.breaker import BreakerState
from consumer.core.model import Engine, Heard, Recording, Wish
from consumer.core.prices import total_usd
from consumer.core.router import Go, Refuse, Router, Side, SideState
from consumer.engines.guard import Breakers, Guarded, breaker_of, default_breakers, guarded_by
from consumer.engines.openai_api import OpenAIEngine
from consumer.errors import BudgetExhaustedError, EventError, ReasonedError, SlowDownError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason, Route
from schemas.models import Attempt

log = logging.getLogger(__name__)

_BILLED_ATTEMPTS = 8
"""Failed tries of one recording that an API may have billed, at most."""
_LATE_SECONDS = 0.05
_LATEST_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
"""A wait is looked at again at least so often."""


@dataclass(slots=True)
class _Journey:
    """One recording on its way to its words."""

    recording: Recording
    wish: Wish
    attempts: list[Attempt] = field(default_factory=list)
    failures: int = 0
    own_failures: dict[Side, int] = field(default_factory=dict)
    unfit: dict[Side, ReasonedError] = field(default_factory=dict)
    unpaid: dict[Side, tuple[float, BudgetExhaustedError]] = field(default_factory=dict)
    """Sides that a budget keeps it from, and until when on the clock."""


class HybridEngine:
    """Serves every recording from the engine that the router names, and waits while no engine works.

    An event is never refused because engines are down: it waits, until its deadline if it has one. It is refused
    (``attempts_exhausted``) when it keeps failing while the engine serves others.
    """

    def __init__(
        self,
        primary: Engine,
        fallback: Engine | None,
        settings: Settings,
        breakers: Breakers | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        breakers = breakers or default_breakers(primary, fallback, settings)
        self._sides = {Side.PRIMARY: guarded_by(primary, breakers.primary)}
        if fallback is not None:
            self._sides[Side.FALLBACK] = guarded_by(fallback, breakers.fallback or breaker_of(fallback, settings))
        primary_route = Route.POLICY if isinstance(primary, OpenAIEngine) else Route.LOCAL
        self._router = Router(settings.critical_route, primary_route)
        self._backoff = RetryPolicy(first_seconds=0.2, max_seconds=10.0)
        self._clock = clock
        self._changed = asyncio.Event()
        for side, guarded in self._sides.items():
            guarded.breaker.listen(self._listener(side))

    @property
    def primary(self) -> Engine:
        return self._sides[Side.PRIMARY].engine

    def breaker_states(self) -> dict[str, BreakerState]:
        """Each engine's breaker by side, for health and alerts."""
        return {side.value: guarded.breaker.state for side, guarded in self._sides.items()}

    def set_share(self, share: float) -> None:
        """How much of the group's API limits this process may use, 0 to 1."""
        for guarded in self._sides.values():
            if isinstance(guarded.engine, OpenAIEngine):
                guarded.engine.gate.set_share(share)

    def language_of(self, wish: Wish) -> str | None:
        """The language of the dedup key, fixed before routing: the primary's own code, or the fallback's for a
        language that only the fallback serves. Raises EventError ``unsupported_language``.
        """
        try:
            return self.primary.language_of(wish)
        except EventError:
            if Side.FALLBACK not in self._sides:
                raise
            return self._sides[Side.FALLBACK].engine.language_of(wish)

    async def start(self) -> None:
        """Start both engines; returns when both are ready."""
        async with asyncio.TaskGroup() as group:
            for guarded in self._sides.values():
                group.create_task(guarded.engine.start())

    async def stop(self) -> None:
        """Stop both engines, each although the other fails to."""
        stops = (guarded.engine.stop() for guarded in self._sides.values())
        failed = [result for result in await asyncio.gather(*stops, return_exceptions=True) if result is not None]
        if failed:
            raise BaseExceptionGroup("engines did not stop cleanly", failed)

    async def transcribe(self, recording: Recording, wish: Wish) -> tuple[Heard, Route]:
        """The words and the way they were found; all tries, failed ones too, are in ``Heard.attempts``.

        Raises RecordingError, and EventError for ``deadline_exceeded``, ``unsupported_language``,
        ``attempts_exhausted`` and, where no other engine may serve it for longer than a minute, ``budget_exhausted``
        (BudgetExhaustedError); each with the tries so far in ``attempts``.
        """
        journey = _Journey(recording, wish)
        self._find_unfit(journey)
        try:
            while True:
                decision = self._router.choose(wish, *(self._state(side, journey) for side in Side))
                if isinstance(decision, Refuse):
                    raise _refused(journey)
                self._check_deadline(journey)
                if not isinstance(decision, Go):
                    self._check_money(journey)
                    await self._wait(journey, self._breaker_wait(journey))
                elif (heard := await self._try(decision.side, journey)) is not None:
                    return _with_history(heard, journey), decision.route
        except ReasonedError as error:
            if error.attempts is not journey.attempts:
                error.attempts = journey.attempts
            raise
        except asyncio.CancelledError:
            wish.spent(journey.attempts)
            raise

    async def _try(self, side: Side, journey: _Journey) -> Heard | None:
        guarded, started = self._sides[side], self._clock()
        served_before = guarded.breaker.successes
        if not guarded.guards_itself and not guarded.breaker.allow(started):
            return None
        try:
            heard = await guarded.engine.transcribe(journey.recording, journey.wish)
        except BudgetExhaustedError as error:
            journey.attempts += error.attempts
            journey.unpaid[side] = (self._clock() + error.wait_seconds, error)
            return None
        except TransientError as error:
            self._enter_failure(guarded, journey, error, started)
            await self._after_failure(side, journey, error, served_before)
            return None
        except ReasonedError as error:
            self._report(guarded, served=error.reason is not Reason.UNSUPPORTED_LANGUAGE)
            self._enter_failure(guarded, journey, error, started)
            if error.reason is not Reason.UNSUPPORTED_LANGUAGE:
                raise
            journey.unfit[side] = error
            return None
        except BaseException:
            if not guarded.guards_itself:
                guarded.breaker.abandon(self._clock())
            raise
        self._report(guarded, served=True)
        if not heard.attempts:
            heard = replace(heard, attempts=[self._line(guarded, journey, "ok", started, heard.cost_usd)])
        return heard

    async def _after_failure(self, side: Side, journey: _Journey, error: TransientError, served_before: int) -> None:
        guarded = self._sides[side]
        if isinstance(error, SlowDownError):
            if not guarded.guards_itself:
                guarded.breaker.abandon(self._clock())
        else:
            journey.failures += 1
            billed = sum(attempt.cost_usd > 0 for attempt in journey.attempts)
            if guarded.guards_itself and billed >= _BILLED_ATTEMPTS:
                journey.unfit[side] = error  # it may be this recording: it must not be paid for without end
            if guarded.breaker.successes > served_before:  # it fails for this one while it serves others
                own = journey.own_failures[side] = journey.own_failures.get(side, 0) + 1
                if own >= guarded.attempts:
                    journey.unfit[side] = error
            if not guarded.guards_itself:
                guarded.breaker.record_failure(self._clock(), error.detail)
        if self._state(side, journey) is not SideState.READY:
            return  # the router may know another way at once
        delay = random.random() * self._backoff.ceiling(max(1, journey.failures))  # noqa: S311 (jitter)
        await self._wait(journey, max(delay, error.retry_after_seconds or 0.0))

    def _report(self, guarded: Guarded, *, served: bool) -> None:
        if guarded.guards_itself:
            return
        if served:
            guarded.breaker.record_success(self._clock())
        else:
            guarded.breaker.abandon(self._clock())

    def _find_unfit(self, journey: _Journey) -> None:
        for side, guarded in self._sides.items():
            try:
                guarded.engine.language_of(journey.wish)
            except EventError as error:
                journey.unfit[side] = error

    def _state(self, side: Side, journey: _Journey) -> SideState:
        guarded = self._sides.get(side)
        if guarded is None:
            return SideState.ABSENT
        if side in journey.unfit:
            return SideState.UNFIT
        is_ready = guarded.breaker.would_allow(self._clock()) and not self._money_wait(side, journey)
        return SideState.READY if is_ready else SideState.DOWN

    def _money_wait(self, side: Side, journey: _Journey) -> float:
        """Seconds until a budget may have enough for it."""
        until, _ = journey.unpaid.get(side, (0.0, None))
        return max(0.0, until - self._clock())

    def _check_money(self, journey: _Journey) -> None:
        """Whoever can only be served for money that is not there need not wait here."""
        waits = [self._money_wait(side, journey) for side in self._sides if side not in journey.unfit]
        if min(waits) > _LONGEST_WAIT_SECONDS:
            raise min(journey.unpaid.values(), key=lambda unpaid: unpaid[0])[1]

    def _breaker_wait(self, journey: _Journey) -> float:
        now = self._clock()
        waits = [
            max(guarded.breaker.wait_seconds(now), self._money_wait(side, journey))
            for side, guarded in self._sides.items()
            if side not in journey.unfit
        ]
        # a recording that has failed already lets fresh ones go first as the probe: it may be at fault itself
        return min(waits) + min(_LATEST_SECONDS, _LATE_SECONDS * journey.failures)

    async def _wait(self, journey: _Journey, seconds: float) -> None:
        """Until so much time has passed or a breaker has moved; at most until the deadline."""
        seconds = min(seconds, _LONGEST_WAIT_SECONDS)
        if journey.wish.deadline is not None:
            seconds = max(0.0, min(seconds, journey.wish.deadline - self._clock()))
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return

    def _check_deadline(self, journey: _Journey) -> None:
        deadline = journey.wish.deadline
        if deadline is not None and self._clock() >= deadline:
            states = ", ".join(f"{side} {state}" for side, state in self.breaker_states().items())
            raise EventError(
                Reason.DEADLINE_EXCEEDED, f"no engine served it in time (breakers: {states}); publish it again"
            )

    def _enter_failure(self, guarded: Guarded, journey: _Journey, error: ReasonedError, started: float) -> None:
        if error.attempts:
            journey.attempts += error.attempts
        elif not guarded.guards_itself:  # the API engine has entered what it sent, perhaps nothing
            journey.attempts.append(self._line(guarded, journey, error.reason, started, 0.0))

    def _line(self, guarded: Guarded, journey: _Journey, outcome: str, started: float, cost_usd: float) -> Attempt:
        return Attempt(
            engine=guarded.engine.ref.name,
            model=guarded.engine.ref.model,
            outcome=outcome,
            audio_seconds=journey.recording.audio_seconds,
            cost_usd=cost_usd,
            usage_source="measured",
            seconds=self._clock() - started,
        )

    def _listener(self, side: Side) -> Callable[[BreakerState, BreakerState, str], None]:
        def changed(old: BreakerState, new: BreakerState, why: str) -> None:
            level = logging.WARNING if new is BreakerState.OPEN else logging.INFO
            log.log(level, "breaker_%s: %s engine, was %s: %s", new.value, side.value, old.value, why)
            self._changed.set()
            self._changed = asyncio.Event()  # those who wait from now on wait for the next change

        return changed


def _with_history(heard: Heard, journey: _Journey) -> Heard:
    if not journey.attempts:
        return heard
    attempts = [*journey.attempts, *heard.attempts]
    return replace(heard, attempts=attempts, cost_usd=total_usd(attempt.cost_usd for attempt in attempts))


def _refused(journey: _Journey) -> EventError:
    error = journey.unfit.get(Side.PRIMARY) or next(iter(journey.unfit.values()))
    if not isinstance(error, TransientError):
        return EventError(error.reason, error.detail)
    tries = len(journey.attempts)
    detail = f"every engine that may serve it failed while it served others ({tries} tries); the last: {error.detail}"
    return EventError(Reason.ATTEMPTS_EXHAUSTED, detail)
