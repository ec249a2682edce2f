"""What ``make faults`` plays: one long scene in which everything is mixed, and short ones for each engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.plan import (
    API_KINDS,
    BROKER_KINDS,
    ENGINE_KINDS,
    NETWORK_KINDS,
    PROCESS_KINDS,
    Kind,
    Plan,
    Point,
    Shares,
    make_plan,
)
from tests.faults.stage import Cast

OWN_BROKERS_TAKE = (*NETWORK_KINDS, *BROKER_KINDS)
"""What cannot be done to brokers that somebody else runs."""
EVERYTHING = (*PROCESS_KINDS, Kind.DISK_FULL, *OWN_BROKERS_TAKE)
SHORT_SECONDS = 28.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A plan's ingredients."""

    name: str
    cast: Cast
    kinds: Sequence[Kind]
    shares: Shares

    def plan(self, seed: int) -> Plan:
        return make_plan(seed, self.shares, self.kinds)


def mixed(seconds: float, nodes: int, *, rate: float, every: float, kinds: Sequence[Kind] = ()) -> Scene:
    """Everything that can happen to processes, brokers and the network; in a round each crash point comes once."""
    chosen = [kind for kind in kinds or EVERYTHING if nodes > 1 or kind not in BROKER_KINDS]
    more = [] if kinds else [Kind.CRASH] * (len(Point) - 1)
    killers = 0 if kinds else 1
    shares = Shares(seconds, nodes=nodes, events_per_second=rate, fault_every_seconds=every, killers=killers)
    return Scene("mixed", Cast.SIMULATED, [*chosen, *more], shares)


def engines(seconds: float, nodes: int) -> Scene:
    """A local engine whose children die, hang and starve, and recordings that kill it; processes die beside."""
    kinds = [*ENGINE_KINDS, Kind.DECODER, Kind.KILL]
    shares = Shares(seconds, nodes=nodes, events_per_second=8.0, fault_every_seconds=3.0, killers=0, toxic=1)
    return Scene("engine", Cast.LOCAL, kinds, shares)


def api(seconds: float, nodes: int) -> Scene:
    """An API that storms."""
    shares = Shares(seconds, nodes=nodes, events_per_second=15.0, fault_every_seconds=3.5, killers=0)
    return Scene("api", Cast.API, [*API_KINDS, Kind.KILL], shares)


def each_alone(nodes: int) -> list[Scene]:
    """A scene for each kind of fault that befalls processes, brokers and the network, and nothing else in it."""
    scenes = []
    for kind in EVERYTHING:
        many = len(Point) if kind is Kind.CRASH else 2
        shares = Shares(14.0 + 20.0 * many, nodes=nodes, events_per_second=20.0, fault_every_seconds=20.0, killers=0)
        if nodes > 1 or kind not in BROKER_KINDS:
            scenes.append(Scene(f"{kind} alone", Cast.SIMULATED, [kind], shares))
    return scenes
