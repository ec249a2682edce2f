"""Which engine serves an event, and why; pure."""

from collections.abc import Iterable
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
    HELD = "held"
    """It works, but not for this event before a known time: it asks for patience."""
    UNPAID = "unpaid"
    """The same, because the budget is used up."""
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
Where = Literal["local", "api"]

_MAY_SERVE = (SideState.READY, SideState.DOWN, SideState.HELD, SideState.UNPAID)


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Events that match go there while there is an engine to serve them; a rule prefers, it does not forbid."""

    what: str
    """``tenant``, ``language``, ``priority`` (``critical`` or ``deferred``), ``longer_than`` or ``shorter_than``."""
    value: str
    where: Where

    def matches(self, wish: Wish, audio_seconds: float) -> bool:
        """Whether the rule speaks of this event."""
        match self.what:
            case "tenant":
                return wish.tenant == self.value
            case "language":
                return wish.language == self.value.lower()
            case "priority":
                return wish.critical if self.value == "critical" else wish.deferred
            case "longer_than":
                return audio_seconds > float(self.value)
            case _:
                return audio_seconds < float(self.value)


def route_rules(texts: Iterable[str]) -> tuple[RouteRule, ...]:
    """Rules as the settings write them, ``what=value:where``; the settings have checked their form."""
    rules = []
    for text in texts:
        condition, _, where = text.rpartition(":")
        what, _, value = condition.partition("=")
        rules.append(RouteRule(what, value, "api" if where == "api" else "local"))
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class Router:
    """The routing policy."""

    critical_route: Where = "local"
    primary_route: Route = Route.LOCAL
    """What it is called when the primary serves: ``policy`` where the settings make an API the primary."""
    rules: tuple[RouteRule, ...] = ()
    """The first that matches counts, before ``critical_route``."""

    def choose(
        self,
        wish: Wish,
        primary: SideState,
        fallback: SideState,
        *,
        audio_seconds: float = 0.0,
        late: bool = False,
    ) -> Decision:
        """Decide for one event at one moment. ``late``: the primary would be done with it after its deadline only."""
        if primary not in _MAY_SERVE and fallback not in _MAY_SERVE:
            return Refuse()
        wanted = self._wanted(wish, audio_seconds)
        if wanted == "api" and fallback is SideState.READY:
            return Go(Side.FALLBACK, Route.POLICY)
        # with the API down or out of budget, such an event is better served locally than late
        if primary is SideState.READY:
            is_late = late and wanted is None
            if is_late and fallback is SideState.READY:
                return Go(Side.FALLBACK, Route.DEADLINE)
            if (is_late or wanted == "api") and fallback is SideState.UNPAID:
                return Go(Side.PRIMARY, Route.BUDGET_EXHAUSTED)
            return Go(Side.PRIMARY, Route.OFF_PEAK if wish.deferred else self.primary_route)
        if fallback is SideState.READY:
            return Go(Side.FALLBACK, Route.BREAKER_OPEN if primary is SideState.DOWN else Route.POLICY)
        return Wait()

    def _wanted(self, wish: Wish, audio_seconds: float) -> Where | None:
        """Where the policy sends it; None: it has no opinion."""
        ruled = next((rule.where for rule in self.rules if rule.matches(wish, audio_seconds)), None)
        if ruled is None and self.critical_route == "api" and wish.critical:
            return "api"
        return ruled
