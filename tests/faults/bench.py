"""One run: Kafka, the fleet, the load, the adversary, and at the end the verdict."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.faults.adversary import Adversary
from tests.faults.fleet import Fleet, fast_settings, make_topics, unexplained
from tests.faults.load import Load
from tests.faults.plan import ENGINE_KINDS, NETWORK_KINDS, Kind, Plan
from tests.faults.proxy import Proxy
from tests.faults.reader import Reader
from tests.faults.report import Run, recoveries, too_slow
from tests.faults.stage import Cast, fault_free_texts, set_up
from tests.faults.surroundings import Brokers, Deed, Surroundings, small_disk
from tests.faults.verifier import Outputs, Verdict, judge

SETTLE_SECONDS = 120.0
"""How long the group may take after the load and the last fault until nothing is left to do."""
READY_SECONDS = 60.0
LOOK_SECONDS = 0.5
Say = Callable[[str], None]


async def run(plan: Plan, folder: Path, kafka: Brokers, cast: Cast = Cast.SIMULATED, say: Say = lambda _: None) -> Run:
    """Carry a plan out on a running Kafka; everything is kept below ``folder``."""
    begun = time.monotonic()
    name, shares = f"faults-{os.getpid()}-{time.time_ns() % 10**9}", plan.shares
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(set_up(cast, folder))
        load = Load(kafka.bootstrap_servers, f"{name}.events", folder / "recordings", stage.recording_seconds)
        settings = fast_settings(kafka.service_servers, name, shares.partitions, load.folder) | stage.settings
        await asyncio.to_thread(load.record, plan.events)
        if cast is not Cast.SIMULATED:
            load.texts.update(await fault_free_texts(settings, load.recordings))
        proxy = await stack.enter_async_context(Proxy(kafka.routes))
        await asyncio.to_thread(make_topics, settings)
        names = [f"slot-{number}" for number in range(shares.processes)]
        if any(fault.kind is Kind.DISK_FULL for fault in plan.faults):
            for slot in names:
                stack.enter_context(small_disk(folder / slot / "state"))
        reader = stack.enter_context(Reader(kafka.bootstrap_servers, name))
        fleet = await stack.enter_async_context(Fleet(folder, settings))
        around = Surroundings(kafka, proxy, stage.api, name, load.topic)
        adversary = await _disturb(plan, fleet, names, around, load, say)
        settled = await _settled(reader, load.topic)
        await fleet.stop()
        say("the fleet has drained")
        outputs = await asyncio.to_thread(_outputs, reader, name)
        lags = await asyncio.to_thread(reader.lags, load.topic)
    verdict = judge(load.published, outputs, lags, fleet.journal(), *_moments(fleet, adversary.deeds))
    _add_own_findings(verdict, load, fleet, adversary, settled=settled)
    recovery = recoveries(adversary.deeds, fleet.deaths, outputs.transcripts, shares.partitions)
    verdict.findings.extend(too_slow(recovery))
    return Run(plan, time.monotonic() - begun, adversary.deeds, fleet.deaths, verdict, recovery)


async def _disturb(
    plan: Plan, fleet: Fleet, names: Sequence[str], around: Surroundings, load: Load, say: Say
) -> Adversary:
    """Load and faults at once, until both are over."""
    for slot in names:
        fleet.add(slot)
    await _until(lambda: fleet.said("lane_open") >= plan.shares.partitions, READY_SECONDS, "every lane is open")
    adversary = Adversary(fleet, around)
    say(f"{len(names)} processes serve; {len(plan.events)} events and {len(plan.faults)} faults follow")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(load.run, plan.events))
            tasks.create_task(adversary.run(plan.faults))
    finally:
        load.stopped.set()
    say(f"the load is over; {len(adversary.deeds)} faults happened, {len(fleet.deaths)} processes ended")
    return adversary


def _add_own_findings(verdict: Verdict, load: Load, fleet: Fleet, adversary: Adversary, *, settled: bool) -> None:
    if not settled:
        verdict.blame("the group catches up", "all", f"not within {SETTLE_SECONDS:.0f} s after the load and the faults")
    for refusal in load.refused:
        verdict.blame("the load was delivered", "load", refusal)
    for death in unexplained(fleet.deaths, adversary.killed, fleet.journal()):
        if not adversary.made_it_give_up(death):
            detail = f"process {death.pid} ended with {death.code}{' after SIGTERM' if death.asked else ''}"
            verdict.blame("no process ends by itself", death.slot, detail)


Moments = list[tuple[float, int]]


def _moments(fleet: Fleet, deeds: Sequence[Deed]) -> tuple[Moments, Moments]:
    """When which process was disturbed, and when it was continued."""
    of_children = (Kind.DECODER, *ENGINE_KINDS)
    to_processes = [deed for deed in deeds if deed.fault.kind not in of_children]
    disturbed = [(death.at, death.pid) for death in fleet.deaths]
    disturbed += [(deed.at, pid) for deed in to_processes for pid in deed.pids]
    awake = [(deed.until, pid) for deed in deeds if deed.fault.kind is Kind.FREEZE for pid in deed.pids]
    # what a process begins while it is cut off, it begins as a zombie does
    awake += [(deed.at, pid) for deed in deeds if deed.fault.kind in NETWORK_KINDS for pid in deed.pids]
    return disturbed, awake


def _outputs(reader: Reader, prefix: str) -> Outputs:
    return Outputs(*(reader.read(f"{prefix}.{topic}") for topic in ("transcripts", "metrics", "dead-letters", "dedup")))


async def _settled(reader: Reader, topic: str) -> bool:
    """Wait until nothing is left to do; whether that came."""
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        lags = await asyncio.to_thread(reader.lags, topic)
        if all(lag.committed == lag.end for lag in lags):
            return True
        await asyncio.sleep(LOOK_SECONDS)
    return False


async def _until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not happen within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.1)
