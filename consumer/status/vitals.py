"""Reads the state of the service where it lives; keeps none of it.

Readers come from the event loop (the page) and from exporters' threads: so whatever may change meanwhile is copied.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from consumer.audio.recordings import Recordings
from consumer.core.breaker import Breaker, BreakerState
from consumer.core.budget import Standing, shown
from consumer.core.engine_load import EngineLoad, MinuteLoad
from consumer.core.outcomes import Moment, Settlement, Write
from consumer.engines.hybrid import HybridEngine
from consumer.engines.local import LocalEngine
from consumer.engines.simulated import SimulatedEngine
from consumer.engines.watch import BatchWatch
from consumer.kafka.intake import Intake
from consumer.kafka.lane_lag import LagWatch
from consumer.kafka.lane_parts import LaneState
from consumer.kafka.spending import Spending
from consumer.settings import Settings
from consumer.telemetry.loop_monitor import LoopMonitor
from consumer.telemetry.measures import Measures
from consumer.telemetry.spans import EventSpan

_TENANTS_AT_MOST = 20
"""Whose budgets are shown: each is a row, and a series."""


@dataclass(frozen=True, slots=True)
class LaneVitals:
    """One lane."""

    partition: int
    state: str
    lag: int | None
    """Offsets behind the end; None while it is not known."""
    in_flight: int


class Vitals:
    """The parts of the service that can be asked, as far as they are there yet."""

    def __init__(self, settings: Settings, loop_monitor: LoopMonitor, measures: Measures | None) -> None:
        self.settings = settings
        self.measures = measures
        self.loop_monitor = loop_monitor
        self.batches = BatchWatch(settings.model if settings.engine != "simulated" else "simulated")
        self.started_at = time.time()
        self.engine: HybridEngine | None = None
        self._breakers: dict[str, Breaker] = {}
        self._recordings: Recordings | None = None
        self._intake: Intake | None = None
        self._lag: LagWatch | None = None
        self._spending: Spending | None = None

    # as the service is put together

    @property
    def settled(self) -> Callable[[Settlement, Moment, list[Write], EventSpan], None]:
        """What the lanes tell their outcomes to."""
        return self.measures.settled if self.measures is not None else lambda *_: None

    @property
    def committing(self) -> Callable[[], AbstractContextManager[None]]:
        """What the lanes enter around a transaction."""
        return self.measures.committing if self.measures is not None else nullcontext

    def engine_is(self, engine: HybridEngine, recordings: Recordings) -> None:
        """The engine is ready."""
        self.engine, self._recordings = engine, recordings

    def breakers_are(self, breakers: dict[str, Breaker]) -> None:
        """Those of the engines, and of whoever looks at their words a second time."""
        self._breakers = breakers

    def serves(self, intake: Intake, lag: LagWatch, spending: Spending | None) -> None:
        """The service joins its group."""
        self._intake, self._lag, self._spending = intake, lag, spending

    # readings

    @property
    def state(self) -> str:
        """``starting``, ``joining``, ``opening``, ``serving`` or ``draining``."""
        if self._intake is None:
            return "starting"
        if self._intake.draining:
            return "draining"
        if not self._intake.joined:
            return "joining"
        lanes = list(self._intake.lanes.values())
        return "serving" if all(lane.state is LaneState.SERVING for lane in lanes) else "opening"

    @property
    def ready(self) -> bool:
        """Whether every lane of this process serves."""
        return self.state == "serving"

    def lanes(self) -> list[LaneVitals]:
        """The lanes of this process, by partition."""
        if self._intake is None or self._lag is None:
            return []
        found = [
            LaneVitals(tp.partition, lane.state.value, self._lag.of(tp), lane.in_flight)
            for tp, lane in list(self._intake.lanes.items())
        ]
        return sorted(found, key=lambda lane: lane.partition)

    def lane_states(self) -> Counter[str]:
        """How many lanes are in each state."""
        states = Counter({state.value: 0 for state in LaneState})
        states.update(lane.state for lane in self.lanes())
        return states

    @property
    def records_given(self) -> int:
        return self._intake.given if self._intake is not None else 0

    @property
    def load(self) -> EngineLoad:
        return self.batches.load

    @property
    def minute(self) -> MinuteLoad:
        """The engine's last minute."""
        return self.load.minute(time.monotonic())

    @property
    def audio_seconds_in_flight(self) -> float:
        """Decoded audio that is being worked on."""
        return self._recordings.audio_seconds_in_flight if self._recordings is not None else 0.0

    @property
    def queued_audio_seconds(self) -> float | None:
        """Audio that waits for a model of our own; None where there is none."""
        primary = self.engine.primary if self.engine is not None else None
        return primary.queued_audio_seconds if isinstance(primary, LocalEngine | SimulatedEngine) else None

    def budgets(self) -> list[Standing]:
        """Of the group, everybody's first; none before they are known."""
        return shown(self._spending.standings(), _TENANTS_AT_MOST) if self._spending is not None else []

    def breakers(self) -> dict[str, BreakerState]:
        """By side: ``primary``, ``fallback``, ``shadow``, ``refine``."""
        return {side: breaker.state for side, breaker in self._breakers.items()}
