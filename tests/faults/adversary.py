"""Carries a plan's faults out, each at its time, and notes what was done to whom."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.faults.fleet import Death, Fleet, Slot
from tests.faults.plan import ENGINE_KINDS, NETWORK_KINDS, Fault, Kind, Point
from tests.faults.surroundings import APPEAR_SECONDS, Deed, Surroundings

TRIP_SECONDS = 20.0
"""How long an armed process is given to reach its crash point."""
GIVE_UP_SECONDS = 15.0
"""So long after a fault a process that it met while it started may still end, and say why."""
ENGINE, DECODER = "engine_child", "decode_child"
Act = Callable[[Deed, Slot], Coroutine[Any, Any, None]]


class Adversary:
    """Its deeds may overlap."""

    def __init__(self, fleet: Fleet, around: Surroundings) -> None:
        self._fleet = fleet
        self._around = around
        self._names = list(fleet.slots)
        self._guests = 0
        self.deeds: list[Deed] = []

    async def run(self, faults: tuple[Fault, ...]) -> None:
        """Return when the last fault is over."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as deeds:
            for fault in faults:
                await asyncio.sleep(max(0.0, begun + fault.at_seconds - time.monotonic()))
                self._fleet.check()
                deeds.create_task(self._do(fault), name=f"{fault.kind} at {fault.at_seconds}")

    @property
    def killed(self) -> set[int]:
        """Processes that the adversary has killed itself."""
        return {pid for deed in self.deeds if deed.fault.kind in (Kind.KILL, Kind.KILL_ALL) for pid in deed.pids}

    def made_it_give_up(self, death: Death) -> bool:
        """Whether a process ended, and said so, because its disk was full, or because a child or its brokers were gone
        while it started.
        """
        words = self._fleet.last_words(death)
        causes = {
            Kind.DISK_FULL: "disk",
            **dict.fromkeys((Kind.DECODER, *ENGINE_KINDS), "died"),
            **dict.fromkeys(NETWORK_KINDS, "Kafka at"),
        }
        return death.code == 1 and any(
            self._slot_of(deed.fault).name == death.slot
            and deed.at <= death.at <= deed.until + GIVE_UP_SECONDS
            and causes[deed.fault.kind] in words
            for deed in self.deeds
            if deed.fault.kind in causes and not deed.missed
        )

    def _slot_of(self, fault: Fault) -> Slot:
        return self._fleet.slots[self._names[fault.target % len(self._names)]]

    async def _do(self, fault: Fault) -> None:
        acts: dict[Kind, Act] = {
            Kind.KILL: self._kill,
            Kind.KILL_ALL: self._kill_all,
            Kind.CRASH: self._crash,
            Kind.FREEZE: self._freeze,
            Kind.LEAVE: self._leave,
            Kind.JOIN: self._join,
            Kind.DECODER: _kill_decoder,
            Kind.ENGINE_KILL: _kill_engine,
            Kind.ENGINE_HANG: _hang_engine,
            Kind.ENGINE_MEMORY: _starve_engine,
        }
        deed = Deed(fault, time.time())
        act = acts.get(fault.kind) or self._around.act(fault.kind)
        await act(deed, self._slot_of(fault))
        deed.until = time.time()
        self.deeds.append(deed)

    async def _send(self, deed: Deed, name: str, number: signal.Signals) -> None:
        end = time.monotonic() + APPEAR_SECONDS
        while (pid := self._fleet.signal(name, number)) is None and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the next process is on its way
        deed.at = time.time()
        if pid is None:
            deed.miss("nobody was there")
        else:
            deed.pids.append(pid)

    async def _kill(self, deed: Deed, slot: Slot) -> None:
        await self._send(deed, slot.name, signal.SIGKILL)

    async def _kill_all(self, deed: Deed, _: Slot) -> None:
        for name in self._names:
            await self._send(deed, name, signal.SIGKILL)

    async def _leave(self, deed: Deed, slot: Slot) -> None:
        await self._send(deed, slot.name, signal.SIGTERM)

    async def _freeze(self, deed: Deed, slot: Slot) -> None:
        await self._send(deed, slot.name, signal.SIGSTOP)
        await asyncio.sleep(deed.fault.hold_seconds)
        for pid in deed.pids:
            signal_if_there(pid, signal.SIGCONT)

    async def _join(self, deed: Deed, _: Slot) -> None:
        await self._visit(deed.fault.hold_seconds)

    async def _visit(self, seconds: float) -> None:
        self._guests += 1
        name = f"guest-{self._guests}"
        self._fleet.add(name)
        await asyncio.sleep(seconds)
        await self._fleet.retire(name)

    async def _crash(self, deed: Deed, slot: Slot) -> None:
        fault = deed.fault
        assert fault.point is not None
        # by another name first: the process must never read half of it
        armed = slot.crash_file.with_suffix(".new")
        armed.write_text(f"{fault.point}:{fault.nth}", encoding="ascii")
        armed.rename(slot.crash_file)
        if fault.point in (Point.DURING_RESTORE, Point.DURING_OPENING):
            self._fleet.signal(slot.name, signal.SIGTERM)  # the next one opens its lanes
        elif fault.point is Point.DURING_REVOKE:
            await self._visit(TRIP_SECONDS / 4)
        end = time.monotonic() + TRIP_SECONDS
        while slot.crash_file.exists() and time.monotonic() < end:  # noqa: ASYNC110 (another process removes it)
            await asyncio.sleep(0.05)
        deed.at = time.time()  # of the death, not of the arming
        if slot.crash_file.exists():
            slot.crash_file.unlink(missing_ok=True)
            deed.miss("it was not reached")


async def _kill_decoder(deed: Deed, slot: Slot) -> None:
    for pid in _meet(deed, slot, DECODER):
        signal_if_there(pid, signal.SIGKILL)


async def _kill_engine(deed: Deed, slot: Slot) -> None:
    for pid in _meet(deed, slot, ENGINE):
        signal_if_there(pid, signal.SIGKILL)


async def _hang_engine(deed: Deed, slot: Slot) -> None:
    pids = _meet(deed, slot, ENGINE)
    for pid in pids:
        signal_if_there(pid, signal.SIGSTOP)
    await asyncio.sleep(deed.fault.hold_seconds)
    for pid in pids:
        signal_if_there(pid, signal.SIGCONT)


async def _starve_engine(deed: Deed, slot: Slot) -> None:
    """Every request for memory fails, as in a container at its limit that does not kill."""
    pids = _meet(deed, slot, ENGINE)
    for pid in pids:
        _limit_memory(pid, 1)
    await asyncio.sleep(deed.fault.hold_seconds)
    for pid in pids:
        _limit_memory(pid, resource.RLIM_INFINITY)


def _limit_memory(pid: int, size_bytes: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (size_bytes, resource.RLIM_INFINITY))
    except ProcessLookupError:
        return


def _meet(deed: Deed, slot: Slot, kind: str) -> list[int]:
    """The children of that kind that the slot's process has now."""
    found = children(slot.process.pid, kind) if slot.process is not None else []
    if not found:
        deed.miss("nobody was there")
    deed.pids += found
    return found


def children(pid: int, kind: str) -> list[int]:
    """A service process's children that run a certain module."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            all_of_them = map(int, listing.read_text(encoding="ascii").split())
            found += [child for child in all_of_them if kind.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def signal_if_there(pid: int, number: signal.Signals) -> None:
    """Send a signal; nothing happens to a process that has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
