"""Which engine serves an event, and why; pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from consumer.core.model import Wish
from schemas.codes import Route


class Side(StrEnum):
    """The configured engine, or the one that stands in for it."""

    PRIMARY = "primary"
    FALLBACK = "fallback"


class SideState(StrEnum):
    """What a side can do for one event right now."""

    READY = "ready"
    DOWN = "down"
    """Its breaker is open, or waits for its probe: it may come back."""
    UNFIT = "unfit"
    """It works, but not for this event: another language, or it has failed this one too often."""
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Go:
    """Serve the event there, now."""

    side: Side
    route: Route


@dataclass(frozen=True, slots=True)
class Wait:
    """No engine can serve it now, one may later."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """No engine will ever serve it."""


Decision = Go | Wait | Refuse

_MAY_SERVE = (SideState.READY, SideState.DOWN)


@dataclass(frozen=True, slots=True)
class Router:
    """The routing policy."""

    critical_route: Literal["local", "api"] = "local"
    primary_route: Route = Route.LOCAL
    """What it is called when the primary serves: ``policy`` where the settings make an API the primary."""

    def choose(self, wish: Wish, primary: SideState, fallback: SideState) -> Decision:
        """Decide for one event at one moment."""
        if primary not in _MAY_SERVE and fallback not in _MAY_SERVE:
            return Refuse()
        if self.critical_route == "api" and wish.critical and fallback is SideState.READY:
            return Go(Side.FALLBACK, Route.POLICY)
        # with the API down, a critical event is better served locally than late
        if primary is SideState.READY:
            return Go(Side.PRIMARY, self.primary_route)
        if fallback is SideState.READY:
            return Go(Side.FALLBACK, Route.BREAKER_OPEN if primary is SideState.DOWN else Route.POLICY)
        return Wait()
