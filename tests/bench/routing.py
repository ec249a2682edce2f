"""What the router's decision adds to an event: by itself, and with all that surrounds an engine that answers at once.

``python -m tests.bench.routing [--decisions 20000] [--out FILE.json]``: one core, no Kafka, medians of batches of
decisions. Ends with 1 where either takes as long as a millisecond.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from consumer.core.model import Heard, Recording, Wish
from consumer.core.router import Router, SideState, route_rules
from consumer.engines.hybrid import HybridEngine
from consumer.settings import Settings
from schemas.models import Attempt, EngineRef, Recognised
from tests.bench.report import machine, write_json

RULES = (0, 10, 50)
"""Rules of the policy; none of them fits, so all of them are looked at."""
BATCHES = 25
TOO_SLOW_SECONDS = 0.001
_REF = EngineRef(name="instant", model="none")
_RECORDING = Recording("0" * 64, Path("none.pcm"), 16_000)
_HEARD = Heard(
    Recognised(text="", engine=_REF, audio_seconds=1.0),
    attempts=[Attempt(engine="instant", model="none", outcome="ok", audio_seconds=1.0, cost_usd=0.0, seconds=0.0)],
    cost_usd=0.0,
)


class Instant:
    """An engine that has nothing to do."""

    ref = _REF

    def language_of(self, wish: Wish) -> str | None:
        return wish.language

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        return _HEARD


def of_one(decisions: int, work: Callable[[int], None]) -> float:
    """Seconds of one decision: the median of batches; ``work`` makes so many."""
    count = max(1, decisions // BATCHES)
    took = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        work(count)
        took.append((time.perf_counter() - began) / count)
    return statistics.median(took)


def measure(rules: int, decisions: int) -> dict[str, float]:
    """Seconds: the choice alone, and what routing adds around an engine's own call."""
    texts = [f"tenant=t{number}:api" for number in range(rules)]
    router, wish = Router("api", rules=route_rules(texts)), Wish(tenant="acme", deadline=time.monotonic() + 3600)
    hybrid = HybridEngine(Instant(), Instant(), Settings(route_rules=texts, critical_route="api"))
    engine = Instant()

    def choose(count: int) -> None:
        for _ in range(count):
            router.choose(wish, SideState.READY, SideState.READY, audio_seconds=1.0)

    async def call(count: int, *, routed: bool) -> None:
        for _ in range(count):
            await (hybrid if routed else engine).transcribe(_RECORDING, wish)

    with asyncio.Runner() as runner:
        routed = of_one(decisions, lambda count: runner.run(call(count, routed=True)))
        bare = of_one(decisions, lambda count: runner.run(call(count, routed=False)))
    return {"choice_seconds": of_one(decisions, choose), "routing_seconds": routed - bare}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {f"{rules} rules": measure(rules, asked.decisions) for rules in RULES}
    print(f"{machine()['cpu']}")
    for name, row in found.items():
        print(f"{name}: choice {row['choice_seconds'] * 1e6:.1f} µs, all routing {row['routing_seconds'] * 1e6:.1f} µs")
    if asked.out is not None:
        write_json(asked.out, "tests.bench.routing", arguments, found)
    if max(seconds for row in found.values() for seconds in row.values()) >= TOO_SLOW_SECONDS:
        sys.exit(f"a decision takes {TOO_SLOW_SECONDS * 1000:g} ms or longer")


if __name__ == "__main__":
    main()
