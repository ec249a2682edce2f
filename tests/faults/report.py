"""The table and the JSON of a run."""

import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults.fleet import SESSION_SECONDS, Death
from tests.faults.plan import BROKER_KINDS, Fault, Kind, Plan
from tests.faults.reader import Seen
from tests.faults.surroundings import Deed
from tests.faults.trials import Trial
from tests.faults.verifier import Finding, Verdict, murmur2

PACKAGES = ("earwitness", "aiokafka", "confluent-kafka", "uvloop")
FINDINGS_SHOWN = 20
LIMIT_SECONDS: dict[str, float] = {Kind.KILL: SESSION_SECONDS + 5.0, **dict.fromkeys(BROKER_KINDS, 15.0)}
"""How long a fault that nothing else falls together with may be felt by any partition."""
ECHO_SECONDS = 12.0
"""So long a fault that is over may still be felt: the session time-out, and what follows from it."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run has found out."""

    plan: Plan
    seconds: float
    deeds: Sequence[Deed]
    deaths: Sequence[Death]
    verdict: Verdict
    recovery: Sequence["Recovery"]

    @property
    def held(self) -> bool:
        return not self.verdict.findings

    @property
    def kills(self) -> int:
        """Processes that ended by SIGKILL, whoever sent it."""
        return sum(death.code == -9 for death in self.deaths)


def name_of(fault: Fault) -> str:
    """How a fault is called in the table."""
    return f"{fault.kind} {fault.point}" if fault.point else str(fault.kind)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long a fault was felt; ``alone``: nothing else was, so that the figure is its own."""

    kind: str
    seconds: float
    alone: bool


def recoveries(
    deeds: Sequence[Deed], deaths: Sequence[Death], transcripts: Sequence[Seen], partitions: int
) -> list[Recovery]:
    """For each fault that came about: seconds until every partition had a new transcript again.

    Partitions that have none after the fault are left out: their load was over.
    """
    times: dict[int, list[float]] = defaultdict(list)
    for seen in transcripts:
        times[murmur2(seen.value["sha256"].encode()) % partitions].append(seen.timestamp)
    found = []
    for deed in deeds:
        nexts = [min((at for at in each if at > deed.at), default=None) for each in times.values()]
        gaps = [at - deed.at for at in nexts if at is not None]
        if gaps and not deed.missed:
            end = deed.at + max(gaps)
            alone = not any(other is not deed and _felt(other.at, other.until, deed.at, end) for other in deeds)
            alone = alone and not any(
                _felt(death.at, death.at, deed.at, end) for death in deaths if not _of(death, deed)
            )
            found.append(Recovery(name_of(deed.fault), round(max(gaps), 2), alone))
    return found


def too_slow(recovery: Sequence[Recovery]) -> list[Finding]:
    """Faults that were felt alone and for too long."""
    found = []
    for one in recovery:
        limit_seconds = LIMIT_SECONDS.get(one.kind, math.inf)
        if one.alone and one.seconds > limit_seconds:
            detail = f"{one.seconds:g} s, not {limit_seconds:g} s"
            found.append(Finding("every partition works again in time", one.kind, detail))
    return found


def never_seen(deeds: Sequence[Deed]) -> list[str]:
    """Kinds of faults that were planned, and of which none came about: this run says nothing about them."""
    came = {name_of(deed.fault) for deed in deeds if not deed.missed}
    return sorted({name_of(deed.fault) for deed in deeds} - came)


def _felt(begun: float, until: float, at: float, end: float) -> bool:
    return begun < end and until > at - ECHO_SECONDS


def _of(death: Death, deed: Deed) -> bool:
    """Whether the fault itself ended the process."""
    return deed.at - 1.0 <= death.at <= max(deed.until, deed.at) + 1.0


def _summed(recovery: Sequence[Recovery]) -> dict[str, Any]:
    seconds, alone = [one.seconds for one in recovery], [one.seconds for one in recovery if one.alone]
    return {
        "median": statistics.median(seconds),
        "worst": max(seconds),
        "times": len(seconds),
        "worst_alone": max(alone, default=None),
        "times_alone": len(alone),
    }


def _by_kind(recovery: Sequence[Recovery]) -> dict[str, list[Recovery]]:
    found: dict[str, list[Recovery]] = defaultdict(list)
    for one in recovery:
        found[one.kind].append(one)
    return found


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    memory_kib = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])
    return {"cores": os.cpu_count(), "memory_gib": round(memory_kib / 2**20, 1), "system": platform.platform()}


@dataclass(slots=True)
class Programme:
    """Everything that was played."""

    command: str
    seed: int
    seconds: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Scenes that could not be played to their end."""
    trials: list[Trial] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return (
            all(run.held for run in self.runs.values())
            and not self.failures
            and not any(trial.broken for trial in self.trials)
        )


def as_json(programme: Programme) -> dict[str, Any]:
    """Everything that is needed to believe the figures, and to take them again."""
    return {
        "command": programme.command,
        "seed": programme.seed,
        "held": programme.held,
        "seconds": round(programme.seconds, 1),
        "scenes": {name: run_as_json(run) for name, run in programme.runs.items()},
        "failures": programme.failures,
        "trials": [asdict(trial) for trial in programme.trials],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": machine(),
    }


def run_as_json(run: Run) -> dict[str, Any]:
    """One scene."""
    return {
        "shares": asdict(run.plan.shares),
        "held": run.held,
        "seconds": round(run.seconds, 1),
        "figures": {key: value for key, value in asdict(run.verdict).items() if key != "findings"},
        "deaths": len(run.deaths),
        "kills": run.kills,
        "recovery_seconds": {kind: _summed(of_kind) for kind, of_kind in sorted(_by_kind(run.recovery).items())},
        "never_seen": never_seen(run.deeds),
        "findings": [asdict(finding) for finding in run.verdict.findings],
        "faults": [deed.as_json() for deed in sorted(run.deeds, key=lambda deed: deed.at)],
    }


def _told(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def show_run(run: Run, console: Console) -> None:
    """Print a scene's table, and what broke."""
    table = Table(title_justify="left")
    for heading in ("fault", "injected", "missed", "seconds to recover: median", "worst", "worst of those felt alone"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    kinds: dict[str, list[Deed]] = defaultdict(list)
    for deed in run.deeds:
        kinds[name_of(deed.fault)].append(deed)
    for kind, deeds in sorted(kinds.items()):
        of_kind = _by_kind(run.recovery)[kind]
        summed = _summed(of_kind) if of_kind else {}
        told = [_told(summed.get(name)) for name in ("median", "worst", "worst_alone")]
        table.add_row(kind, str(len(deeds)), str(sum(deed.missed for deed in deeds) or ""), *told)
    console.print(table)
    verdict = run.verdict
    console.print(
        f"{verdict.events} events, {run.kills} kills: {verdict.lost} lost, {verdict.doubled} doubled; "
        f"{verdict.recordings} recordings, {verdict.heard_again} heard again ({verdict.in_flight} were in flight when "
        f"something happened, {verdict.by_zombies} begun by zombies)"
    )
    if missing := never_seen(run.deeds):
        console.print(f"NOT SEEN, so not proven by this run: {', '.join(missing)}", style="yellow", markup=False)
    for finding in verdict.findings[:FINDINGS_SHOWN]:
        console.print(f"BROKEN {finding.rule}: {finding.subject}: {finding.detail}", style="red", markup=False)
    if len(verdict.findings) > FINDINGS_SHOWN:
        console.print(f"... and {len(verdict.findings) - FINDINGS_SHOWN} more in the JSON")


def show_trials(trials: Sequence[Trial], console: Console) -> None:
    """Print how each ended."""
    table = Table("trial", "seconds", "held")
    for trial in trials:
        table.add_row(trial.name, f"{trial.seconds:.1f}", f"BROKEN: {trial.broken}" if trial.broken else "yes")
    console.print(table)
