"""The service processes under test: each in a slot of its own, started again whenever it ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0
"""SIGTERM to exit, at most: the service's own grace is shorter."""
BREATHER_SECONDS = 0.2
SESSION_SECONDS = 6.0
"""The session time-out that the service processes run with."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a process."""

    at: float
    pid: int
    slot: str
    code: int
    asked: bool
    """SIGTERM came before it."""


def fast_settings(bootstrap_servers: str, name: str, partitions: int, recordings: Path) -> dict[str, str]:
    """Settings that make the service notice things quickly, as environment variables."""
    chosen = {
        "kafka_bootstrap_servers": bootstrap_servers,
        "group_id": name,
        "topic_prefix": name,
        "partitions": partitions,
        "engine": "simulated",
        "simulated_realtime_factor": 1.0,
        "simulated_concurrency": 8,
        "fetch_allow": recordings.as_uri() + "/",
        "decode_workers": 1,
        "spool_bytes": 4 * 1024 * 1024,
        "session_timeout_ms": round(SESSION_SECONDS * 1000),
        "heartbeat_interval_ms": 500,
        "rebalance_timeout_ms": 10_000,
        "revoke_drain_seconds": 3.0,
        "transaction_timeout_ms": 5000,
        "commit_interval_ms": 50,
        "log_format": "text",
    }
    return {f"EARWITNESS_{key.upper()}": str(value) for key, value in chosen.items()}


@dataclass(slots=True)
class Slot:
    """A place for one process after another."""

    name: str
    folder: Path
    process: asyncio.subprocess.Process | None = None
    terminated: set[int] = field(default_factory=set)
    staying: bool = True

    @property
    def crash_file(self) -> Path:
        return self.folder / "crash-at"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "service.log"


class Fleet:
    """All slots; ``async with`` it, and everything is gone at the end."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = dict(settings)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.slots: dict[str, Slot] = {}
        self.deaths: list[Death] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for slot in self.slots.values():
            slot.staying = False
            self.signal(slot.name, signal.SIGKILL)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=END_SECONDS)

    def add(self, name: str) -> Slot:
        """Open a slot and keep a process in it."""
        slot = self.slots[name] = Slot(name, self._folder / name)
        slot.folder.mkdir(parents=True, exist_ok=True)
        slot.journal.touch()
        slot.log.touch()
        self._tasks[name] = asyncio.create_task(self._keep(slot), name=f"slot {name}")
        return slot

    def signal(self, name: str, number: signal.Signals) -> int | None:
        """Send a signal to a slot's process; its pid, None if there is none at the moment."""
        slot = self.slots[name]
        process = slot.process
        if process is None or process.returncode is not None:
            return None
        if number is signal.SIGTERM:
            if process.pid in slot.terminated:
                return process.pid  # it is on its way; a second one would mean "at once"
            slot.terminated.add(process.pid)
        process.send_signal(number)
        return process.pid

    async def retire(self, name: str) -> None:
        """SIGTERM, and nobody in its place."""
        slot = self.slots[name]
        slot.staying = False
        self.signal(name, signal.SIGCONT)
        self.signal(name, signal.SIGTERM)
        done, _ = await asyncio.wait([self._tasks[name]], timeout=END_SECONDS)
        if not done:
            self.signal(name, signal.SIGKILL)
            await self._tasks[name]

    async def stop(self) -> None:
        """Every process drains and ends."""
        await asyncio.gather(*(self.retire(name) for name in self.slots if not self._tasks[name].done()))

    def check(self) -> None:
        """Raise what a slot's keeper died of."""
        for task in self._tasks.values():
            if task.done():
                task.result()

    def journal(self) -> list[dict[str, Any]]:
        """What all processes have noted, in order of time."""
        lines = [line for slot in self.slots.values() for line in slot.journal.read_text(encoding="ascii").splitlines()]
        return sorted((json.loads(line) for line in lines), key=lambda line: float(line["at"]))

    def said(self, text: str) -> int:
        """In how many log lines a text is."""
        return sum(slot.log.read_text(encoding="utf-8", errors="replace").count(text) for slot in self.slots.values())

    def last_words(self, death: Death) -> str:
        """What a process said of its end; nothing where it said nothing of its own accord."""
        lines = self.slots[death.slot].log.read_text(encoding="utf-8", errors="replace").splitlines()
        ends = [number for number, line in enumerate(lines) if line.startswith(f"--- process {death.pid} ended")]
        last = lines[ends[0] - 1] if ends and ends[0] else ""
        return last if last.startswith("earwitness: ") else ""

    async def _keep(self, slot: Slot) -> None:
        while slot.staying:
            with slot.log.open("ab") as log:
                slot.process = process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.faults.crashing",
                    env=self._environment(slot), cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            code = await process.wait()
            asked = process.pid in slot.terminated
            self.deaths.append(Death(time.time(), process.pid, slot.name, code, asked))
            with slot.log.open("a", encoding="utf-8") as log:
                log.write(f"--- process {process.pid} ended with {code}{' (SIGTERM)' if asked else ''}\n")
            await asyncio.sleep(BREATHER_SECONDS)

    def _environment(self, slot: Slot) -> dict[str, str]:
        ours = {
            "EARWITNESS_STATE_DIR": str(slot.state),
            "FAULTS_CRASH_FILE": str(slot.crash_file),
            "FAULTS_JOURNAL": str(slot.journal),
            "FAULTS_NAME": slot.name,
        }
        return {**clean_environment(), **self._settings, **ours}


def make_topics(settings: Mapping[str, str]) -> None:
    """As a user makes them; blocks."""
    command: list[Path | str] = [Path(sys.executable).with_name("earwitness"), "topics", "create"]
    made = subprocess.run(
        command, env={**clean_environment(), **settings}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise RuntimeError(f"the topics could not be made: {made.stdout}{made.stderr}")


def clean_environment() -> dict[str, str]:
    """This process's environment without anybody's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EARWITNESS_", "FAULTS_"))}


def unexplained(deaths: list[Death], killed: set[int], journal: list[dict[str, Any]]) -> list[Death]:
    """Ends that nobody caused: not the adversary, not a crash point, not a killer, not an orderly SIGTERM."""
    told = killed | {int(line["pid"]) for line in journal if line["what"] == "dies"}
    begun = {int(line["pid"]) for line in journal}

    def is_explained(death: Death) -> bool:
        if death.asked and (death.code == 0 or (death.code == -signal.SIGTERM and death.pid not in begun)):
            return True  # while a process still loads its modules, SIGTERM is not yet a wish to drain
        return death.code == -signal.SIGKILL and death.pid in told

    return [death for death in deaths if not is_explained(death)]
