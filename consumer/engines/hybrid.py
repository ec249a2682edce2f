"""Two engines behind one face: the configured one, and the API that stands in while it is down."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace

from consumer.core.backoff import RetryPolicy
from consumer.core.breaker import Breaker, BreakerState, BreakerStatus
from consumer.core.engine_backlog import EngineBacklog
from consumer.core.model import Engine, Heard, Recording, Wish
from consumer.core.router import Go, Refuse, Router, Side, SideState, route_rules
from consumer.engines.api_gate import ApiGate
from consumer.engines.breakers import is_slow
from consumer.engines.guard import ATTEMPTS, Breakers, Guarded, breaker_of, default_breakers, guarded_by
from consumer.engines.openai_api import OpenAIEngine
from consumer.engines.tries import Tries, refused, with_history
from consumer.errors import EventError, HoldError, ReasonedError, SlowDownError, TransientError
from consumer.settings import Settings
from consumer.telemetry.calls import try_failed
from consumer.turns import Turns
from schemas.codes import Hold, Reason, Route

log = logging.getLogger(__name__)

_BILLED_ATTEMPTS = 8
"""Failed tries of one recording that an API may have billed, at most."""
_LATE_SECONDS = 0.05
_LATEST_SECONDS = 1.0
_PATIENCE_SECONDS = 1.0
"""For an API that asks for some and does not say how much."""
_LONGEST_WAIT_SECONDS = 60.0
"""A wait is looked at again at least so often."""


class HybridEngine:
    """Serves every recording from the engine that the router names, and waits while no engine works.

    An event is never refused because engines are down: it waits, until its deadline if it has one; here, or parked if
    it is known that nobody will serve it for long. It is refused (``attempts_exhausted``) when it keeps failing while
    the engine serves others.
    """

    def __init__(
        self,
        primary: Engine,
        fallback: Engine | None,
        settings: Settings,
        breakers: Breakers | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        breakers = breakers or default_breakers(primary, fallback, settings)
        self._sides = {Side.PRIMARY: guarded_by(primary, breakers.primary)}
        if fallback is not None:
            self._sides[Side.FALLBACK] = guarded_by(fallback, breakers.fallback or breaker_of(fallback, settings))
        primary_route = Route.POLICY if isinstance(primary, OpenAIEngine) else Route.LOCAL
        self._gates = [self.api.gate] if self.api is not None else []
        """Those that the group's limits are shared out to."""
        self._router = Router(settings.critical_route, primary_route, route_rules(settings.route_rules))
        self._in_hand = EngineBacklog()
        self._settings = settings
        self._wall_clock = wall_clock
        self._backoff = RetryPolicy(first_seconds=0.2, max_seconds=10.0)
        self._clock = clock
        self._changed = asyncio.Event()
        self._turns = Turns()
        for side, guarded in self._sides.items():
            guarded.breaker.listen(self._listener(side))

    @property
    def primary(self) -> Engine:
        return self._sides[Side.PRIMARY].engine

    @property
    def api(self) -> OpenAIEngine | None:
        """The API engine, if one of the two is one."""
        engines = (side.engine for side in self._sides.values())
        return next((engine for engine in engines if isinstance(engine, OpenAIEngine)), None)

    def share_limits_with(self, gate: ApiGate) -> None:
        """Somebody beside the two asks an API too, within limits of the group."""
        self._gates.append(gate)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """Each engine's by side."""
        return {side.value: guarded.breaker for side, guarded in self._sides.items()}

    @property
    def is_idle(self) -> bool:
        """The primary engine has nothing in hand."""
        return self._in_hand.is_idle

    def breaker_states(self) -> dict[str, BreakerState]:
        """Each engine's breaker by side, for health and alerts."""
        return {side.value: guarded.breaker.state for side, guarded in self._sides.items()}

    def breaker_status(self) -> dict[str, BreakerStatus]:
        """Each engine's breaker by side, with its rates and its reason, for metrics and the status page."""
        return {side.value: guarded.breaker.status(self._clock()) for side, guarded in self._sides.items()}

    def set_share(self, share: float) -> None:
        """How much of the group's API limits this process may use, 0 to 1."""
        for gate in self._gates:
            gate.set_share(share)

    def add_new_share(self, part: float) -> None:
        """A part of that share which no process has ever had."""
        for gate in self._gates:
            gate.add_new_share(part)

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

        Raises RecordingError, EventError for ``deadline_exceeded``, ``unsupported_language`` and
        ``attempts_exhausted``, and HoldError for a wait that is known to be longer than ``max_hold_seconds``; each
        with the tries so far in ``attempts``.
        """
        tries = Tries(recording, wish)
        self._find_unfit(tries)
        try:
            while True:
                decision = self._router.choose(
                    wish,
                    *(self._state(side, tries) for side in Side),
                    audio_seconds=recording.audio_seconds,
                    late=self._would_be_late(tries),
                )
                if isinstance(decision, Refuse):
                    raise refused(tries)
                self._check_deadline(tries)
                if not isinstance(decision, Go):
                    await self._until_possible(tries)
                elif (heard := await self._try(decision.side, tries)) is not None:
                    return with_history(heard, tries), decision.route
        except ReasonedError as error:
            if error.attempts is not tries.attempts:
                error.attempts = tries.attempts
            raise
        except asyncio.CancelledError:
            wish.spent(tries.attempts)
            raise

    async def _try(self, side: Side, tries: Tries) -> Heard | None:
        guarded, started = self._sides[side], self._clock()
        served_before = guarded.breaker.successes
        if not guarded.guards_itself and not guarded.breaker.allow(started):
            return None
        try:
            heard = await self._hear(side, tries)
        except HoldError as error:
            self._report(guarded, started, served=False)
            tries.held[side] = error
            tries.attempts += error.attempts
            return None
        except TransientError as error:
            self._enter_failure(guarded, tries, error, started)
            try_failed("infer", error.reason.value)
            await self._after_failure(side, tries, error, served_before, started)
            return None
        except ReasonedError as error:
            self._report(guarded, started, served=error.reason is not Reason.UNSUPPORTED_LANGUAGE)
            self._enter_failure(guarded, tries, error, started)
            if error.reason is not Reason.UNSUPPORTED_LANGUAGE:
                raise
            tries.unfit[side] = error
            return None
        except BaseException:
            if not guarded.guards_itself:
                guarded.breaker.abandon(self._clock(), sent_at=started)
            raise
        # with nobody else to serve, a slow engine is better than none
        slow = len(self._sides) > 1 and is_slow(
            heard.infer_seconds or 0.0, heard.recognised.audio_seconds, self._settings
        )
        self._report(guarded, started, served=True, slow=slow)
        if not heard.attempts:
            line = tries.line(guarded.engine.ref, "ok", self._clock() - started, heard.cost_usd)
            heard = replace(heard, attempts=[line])
        return heard

    async def _hear(self, side: Side, tries: Tries) -> Heard:
        engine, wish, heard = self._sides[side].engine, tries.wish, None
        if side is Side.FALLBACK:
            return await engine.transcribe(tries.recording, wish)
        seconds, critical = tries.recording.audio_seconds, wish.critical
        self._in_hand.took(seconds, self._clock(), critical=critical)
        try:
            heard = await engine.transcribe(tries.recording, wish)
        except TransientError:
            await self._turns.time_left()  # an engine that is sick tells all who wait for it in one turn
            raise
        finally:
            self._in_hand.done(seconds, self._clock(), critical=critical, heard=heard is not None)
        return heard

    def _would_be_late(self, tries: Tries) -> bool:
        if tries.wish.deadline is None:
            return False
        needed = self._in_hand.seconds_to_serve(tries.recording.audio_seconds, critical=tries.wish.critical)
        return needed is not None and self._clock() + needed > tries.wish.deadline

    async def _after_failure(
        self, side: Side, tries: Tries, error: TransientError, served_before: int, started: float
    ) -> None:
        guarded = self._sides[side]
        delay = random.random() * self._backoff.ceiling(max(1, tries.failures + 1))  # noqa: S311 (jitter)
        if isinstance(error, SlowDownError):
            if not guarded.guards_itself:
                guarded.breaker.abandon(self._clock(), sent_at=started)
            elif guarded.breaker.would_allow(self._clock()):  # the other engine may have time
                patience_seconds = delay + (error.retry_after_seconds or _PATIENCE_SECONDS)
                tries.hold_off(side, error, self._wall_clock() + patience_seconds)
        else:
            tries.failures += 1
            billed = sum(attempt.cost_usd > 0 for attempt in tries.attempts)
            if guarded.guards_itself and billed >= _BILLED_ATTEMPTS:
                tries.unfit[side] = error  # it may be this recording: it must not be paid for without end
            if guarded.breaker.successes > served_before:  # it fails for this one while it serves others
                own = tries.own_failures[side] = tries.own_failures.get(side, 0) + 1
                if own >= ATTEMPTS:
                    tries.unfit[side] = error
            if not guarded.guards_itself:
                guarded.breaker.record_failure(self._clock(), error.detail, sent_at=started)
        if self._state(side, tries) is not SideState.READY:
            return  # the router may know another way at once
        await self._wait(tries, max(delay, error.retry_after_seconds or 0.0))

    def _report(self, guarded: Guarded, started: float, *, served: bool, slow: bool = False) -> None:
        if guarded.guards_itself:
            return
        if served:
            guarded.breaker.record_success(self._clock(), slow=slow, sent_at=started)
        else:
            guarded.breaker.abandon(self._clock(), sent_at=started)

    def _find_unfit(self, tries: Tries) -> None:
        for side, guarded in self._sides.items():
            try:
                guarded.engine.language_of(tries.wish)
            except EventError as error:
                tries.unfit[side] = error

    def _state(self, side: Side, tries: Tries) -> SideState:
        guarded = self._sides.get(side)
        if guarded is None:
            return SideState.ABSENT
        if side in tries.unfit:
            return SideState.UNFIT
        if self._held_seconds(side, tries) > 0:
            return SideState.UNPAID if tries.held[side].why is Hold.BUDGET_EXHAUSTED else SideState.HELD
        return SideState.READY if guarded.breaker.would_allow(self._clock()) else SideState.DOWN

    def _held_seconds(self, side: Side, tries: Tries) -> float:
        hold = tries.held.get(side)
        return 0.0 if hold is None else hold.until - self._wall_clock()

    async def _until_possible(self, tries: Tries) -> None:
        """Wait until a side may serve it. Raises HoldError if that is known to take longer than an event is held."""
        now = self._clock()
        waits = {
            side: max(guarded.breaker.wait_seconds(now), self._held_seconds(side, tries))
            for side, guarded in self._sides.items()
            if side not in tries.unfit
        }
        side = min(waits, key=lambda side: waits[side])
        seconds, deadline = waits[side], tries.wish.deadline
        # a breaker may close before its time, and a probe is soon back: who cannot wait for that time waits here
        is_open = self._sides[side].breaker.state is BreakerState.OPEN
        may_wait = is_open and (deadline is None or now + seconds < deadline)
        if seconds > self._settings.max_hold_seconds and (may_wait or self._held_seconds(side, tries) > 0):
            raise self._hold(side, seconds, tries)
        # a recording that has failed already lets fresh ones go first as the probe: it may be at fault itself
        await self._wait(tries, seconds + min(_LATEST_SECONDS, _LATE_SECONDS * tries.failures))

    def _hold(self, side: Side, seconds: float, tries: Tries) -> HoldError:
        if self._held_seconds(side, tries) > 0:
            hold = tries.held[side]
            return HoldError(hold.why, hold.reason, hold.detail, until=hold.until)
        detail = f"no engine serves it for {seconds:.0f} s: {self._sides[side].breaker.reason}"
        return HoldError(Hold.ENGINE, Reason.DEADLINE_EXCEEDED, detail, until=self._wall_clock() + seconds)

    async def _wait(self, tries: Tries, seconds: float) -> None:
        """Until so much time has passed or a breaker has moved; at most until the deadline."""
        seconds = min(seconds, _LONGEST_WAIT_SECONDS)
        if tries.wish.deadline is not None:
            seconds = max(0.0, min(seconds, tries.wish.deadline - self._clock()))
        changed = self._changed
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return
        await self._turns.time_left()  # all who waited wake in one turn

    def _check_deadline(self, tries: Tries) -> None:
        deadline = tries.wish.deadline
        if deadline is not None and self._clock() >= deadline:
            states = ", ".join(f"{side} {state}" for side, state in self.breaker_states().items())
            raise EventError(
                Reason.DEADLINE_EXCEEDED, f"no engine served it in time (breakers: {states}); publish it again"
            )

    def _enter_failure(self, guarded: Guarded, tries: Tries, error: ReasonedError, started: float) -> None:
        if error.attempts:
            tries.attempts += error.attempts
        elif not guarded.guards_itself:  # the API engine has entered what it sent, perhaps nothing
            tries.attempts.append(tries.line(guarded.engine.ref, error.reason, self._clock() - started, 0.0))

    def _listener(self, side: Side) -> Callable[[BreakerState, BreakerState, str], None]:
        def changed(old: BreakerState, new: BreakerState, why: str) -> None:
            level = logging.WARNING if new is BreakerState.OPEN else logging.INFO
            log.log(level, "breaker_%s: %s engine, was %s: %s", new.value, side.value, old.value, why)
            self._changed.set()
            self._changed = asyncio.Event()  # those who wait from now on wait for the next change

        return changed
