"""The whole service in an API's storm, its own engine killed on the way: nothing lost, limits held, books that agree.

``python -m tests.bench.storm [--events 2000] [--seconds 150] [--kills 3] [--out FILE.json]``: a real broker, a real
service with a tiny CTC model in a child that is killed with SIGKILL each time another share of the events is settled,
and a scripted API that answers 30 % of its calls with a 429 and Retry-After, 20 % with a 503, lets 5 % hang, and has no
credit for a while. Events come at a steady pace, a third of them critical, which are the API's until the budget ends.
The API counts by itself: requests and audio in every minute, requests at once, money. Ends with 1 and says what broke.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from transformers.utils import logging

from compose.local_kafka import LocalKafka
from consumer.core.prices import api_model
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.bench.kill_engine import engine_children
from tests.bench.report import machine, write_json
from tests.bench.service_run import LOADED_SECONDS, Publisher, Reader
from tests.bench.throughput import wait_for
from tests.support.kafka import Written
from tests.support.scenario import Clip, Outcomes, event, make_clip, outcomes, settings_for
from tests.support.scripted_api import Call, ScriptedApi
from tests.support.service import ServiceProcess, serving
from tests.support.storm import Storm, most_in_a_window
from tests.support.tiny_ctc import build

API_MODEL = "gpt-transcribe"
REQUESTS, AUDIO_SECONDS, AT_ONCE = 180, 170.0, 6
"""What the API allows: in a minute, and open at the same time."""
MINUTE_SECONDS = 60.0
CRITICAL_EVERY = 3
BILLING_FAILS = range(20, 28)
"""Calls, by number, that find the account without credit."""
BUDGET_SHARE = 0.3
"""Of what hearing all critical events costs: it ends before they do."""
_MICRODOLLAR = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Plan:
    """The load, and what it meets."""

    clips: list[Clip]
    seconds: float
    kills: int
    budget_usd: Decimal
    events: dict[str, Written]
    """By id, in the order in which they come."""


def planned(folder: Path, events: int, seconds: float, kills: int) -> Plan:
    """Recordings of half a second to a second and a half, no two of them equal."""
    clips = [make_clip(folder / "clips", number, seconds=0.5 + 0.1 * (number % 11)) for number in range(events)]
    critical = [clip.seconds for number, clip in enumerate(clips) if number % CRITICAL_EVERY == 0]
    budget = api_model(API_MODEL).usd_for_seconds(sum(critical)) * Decimal(str(BUDGET_SHARE))
    records = {
        f"e{number}": Written(event(f"e{number}", clip.uri, critical=number % CRITICAL_EVERY == 0))
        for number, clip in enumerate(clips)
    }
    return Plan(clips, seconds, kills, budget.quantize(_MICRODOLLAR), records)


def service_settings(servers: str, folder: Path, plan: Plan) -> Settings:
    """Limits that the load comes up against, and breakers that try again soon."""
    return settings_for(
        servers,
        folder,
        engine="ctc",
        model=str(build(folder / "model", "group")),
        devices=["cpu"],
        compute_type="float32",
        engine_threads=1,
        fallback="openai",
        critical_route="api",
        api_model=API_MODEL,
        api_requests_per_minute=REQUESTS,
        api_audio_seconds_per_minute=AUDIO_SECONDS,
        api_concurrency=AT_ONCE,
        api_timeout_seconds=5.0,
        breaker_reset_seconds=2.0,
        # a month: the run may be at midnight
        budget_usd_per_month=float(plan.budget_usd),
    )


def _publish(publisher: Publisher, plan: Plan) -> None:
    """At a steady pace; blocks."""
    began, gap = time.monotonic(), plan.seconds / len(plan.events)
    for number, record in enumerate(plan.events.values()):
        time.sleep(max(0.0, began + number * gap - time.monotonic()))
        publisher.publish(record)
    publisher.flush()


def _kill(reader: Reader, service: ServiceProcess, plan: Plan) -> int:
    """Kill the engine child as each share of the events is settled; how often it was killed. Blocks."""
    killed = set()
    for number in range(1, plan.kills + 1):
        reader.until_count(number * len(plan.events) // (plan.kills + 1))
        wait_for(lambda: len(engine_children(service.process.pid)) == 1)
        (child,) = engine_children(service.process.pid)
        os.kill(child, signal.SIGKILL)
        killed.add(child)
    return len(killed)


async def run(plan: Plan, folder: Path, servers: str) -> dict[str, Any]:
    """Serve the load once. Raises RuntimeError for a dead letter or a double, TimeoutError for a loss."""
    settings = await asyncio.to_thread(service_settings, servers, folder, plan)
    await create(settings)
    async with ScriptedApi() as api:
        storm = Storm(api, billing_fails=BILLING_FAILS, model=API_MODEL, retry_after="1")
        environment = {"OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": "x"}
        async with serving(settings, **environment) as service:
            await service.until_log("lane_open", settings.partitions, LOADED_SECONDS)
            with Reader(settings) as reader:
                publisher, began = Publisher(settings), time.monotonic()
                _, kills = await asyncio.gather(
                    asyncio.to_thread(_publish, publisher, plan), asyncio.to_thread(_kill, reader, service, plan)
                )
                await asyncio.to_thread(reader.until, set(plan.events))
                seconds = time.monotonic() - began
            if await service.stop():
                raise RuntimeError("the service failed:\n" + "\n".join(service.lines[-20:]))
        calls, at_once = api.calls, api.open_peak
    found = await asyncio.to_thread(outcomes, settings)
    return {
        **figures(plan, found),
        "seconds": seconds,
        "kills": kills,
        **api_figures(calls, at_once, storm),
        "budget_usd": float(plan.budget_usd),
    }


def figures(plan: Plan, found: Outcomes) -> dict[str, Any]:
    """What came out, and the ledger's sums."""
    told = Counter(str(record.key) for record in found.transcripts)
    metrics = [record.json for record in found.metrics]
    lines = [line for metric in metrics for line in metric["attempts"] if line["engine"] == "openai"]
    return {
        "events": len(plan.events),
        "lost": len(plan.events.keys() - told.keys()),
        "doubled": sum(count - 1 for count in told.values()),
        "dead_letters": len(found.dead_letters),
        "metrics": len(metrics),
        "routes": dict(Counter(record.json["route"] for record in found.transcripts)),
        "ledger_lines": len(lines),
        "ledger_usd": float(sum((Decimal(str(line["cost_usd"])) for line in lines), Decimal(0))),
    }


def api_figures(calls: Sequence[Call], at_once: int, storm: Storm) -> dict[str, Any]:
    """What the API has counted."""
    return {
        "calls": len(calls),
        "answers": storm.answers,
        "most_requests_a_minute": most_in_a_window(calls, MINUTE_SECONDS),
        "most_audio_seconds_a_minute": most_in_a_window(calls, MINUTE_SECONDS, lambda call: call.audio_seconds),
        "most_at_once": at_once,
        "billed_usd": float(storm.billed_usd),
    }


RULES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "each event has one transcript": lambda found: found["lost"] == found["doubled"] == found["dead_letters"] == 0,
    "each event has one metric": lambda found: found["metrics"] == found["events"],
    "requests a minute": lambda found: found["most_requests_a_minute"] <= REQUESTS,
    "audio a minute": lambda found: found["most_audio_seconds_a_minute"] <= AUDIO_SECONDS + 1e-6,
    "requests at once": lambda found: found["most_at_once"] <= AT_ONCE,
    "spend within the budget": lambda found: found["billed_usd"] <= found["budget_usd"] + 1e-9,
    "each call is a line of the ledger": lambda found: found["ledger_lines"] == found["calls"],
    "the ledger is the API's count": lambda found: abs(found["ledger_usd"] - found["billed_usd"]) < 1e-6,
}


def broken_rules(found: dict[str, Any]) -> list[str]:
    return [name for name, holds in RULES.items() if not holds(found)]


def said(found: dict[str, Any]) -> str:
    """The figures for people."""
    routes = ", ".join(f"{name} {count}" for name, count in sorted(found["routes"].items()))
    answers = ", ".join(f"{name} {count}" for name, count in found["answers"].items())
    return (
        f"{found['events']} events in {found['seconds']:.0f} s, engine killed {found['kills']} times: "
        f"{found['lost']} lost, {found['doubled']} doubled, {found['dead_letters']} dead letters ({routes})\n"
        f"{found['calls']} calls ({answers})\n"
        f"at most {found['most_requests_a_minute']:.0f} of {REQUESTS} requests and "
        f"{found['most_audio_seconds_a_minute']:.1f} of {AUDIO_SECONDS:.0f} s of audio in a minute, "
        f"{found['most_at_once']} of {AT_ONCE} at once\n"
        f"${found['billed_usd']:.6f} billed, ${found['ledger_usd']:.6f} in the ledger, "
        f"${found['budget_usd']:.6f} allowed"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=150.0, help="in which the events come")
    parser.add_argument("--kills", type=int, default=3, help="of the own engine's child")
    parser.add_argument("--kafka", help="a broker elsewhere instead of one on this machine")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        plan = planned(folder, asked.events, asked.seconds, asked.kills)
        servers = asked.kafka or stack.enter_context(LocalKafka(folder / "kafka")).bootstrap_servers
        found = asyncio.run(run(plan, folder, servers))
    print(f"{machine()['cores']} cores, {machine()['cpu']}\n{said(found)}")
    if asked.out is not None:
        write_json(asked.out, "tests.bench.storm", arguments, found)
    if broken := broken_rules(found):
        sys.exit(f"broken: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
