"""What surrounds the service processes and can fail: brokers, the network to them, the API, the disk."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests.faults.fleet import Slot
from tests.faults.plan import API_KINDS, BROKER_KINDS, NETWORK_KINDS, Fault, Kind
from tests.faults.proxy import Proxy, Weather
from tests.support.scripted_api import Call, Reply, ScriptedApi, failed, hang, too_fast

STEAL_SECONDS = 15.0
ASK_SECONDS = 20.0
APPEAR_SECONDS = 10.0
"""How long weather waits for a process that is just starting."""
DISK_BYTES = 16 * 1024 * 1024
"""What a process's state folder holds where its disk is to run full."""


@dataclass(slots=True)
class Deed:
    """A fault as it happened; times in seconds since the epoch."""

    fault: Fault
    at: float
    until: float = 0.0
    pids: list[int] = field(default_factory=list)
    note: str = ""
    missed: bool = False
    """It met nobody, or could not be done; the note says why."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def begin(self, note: str) -> None:
        """It happens only now."""
        self.at, self.note = time.time(), note

    def miss(self, why: str) -> None:
        self.note, self.missed = why, True


class Brokers(Protocol):
    """What is needed of a Kafka."""

    @property
    def bootstrap_servers(self) -> str: ...

    @property
    def service_servers(self) -> str:
        """What the service is told: maybe a proxy before the brokers."""
        ...

    @property
    def routes(self) -> dict[int, int]:
        """The proxy's ports and those behind them; none without a proxy."""
        ...

    def kill(self, node: int) -> None: ...

    def start(self, node: int) -> None: ...


@dataclass(frozen=True, slots=True)
class OthersBrokers:
    """Brokers that somebody else runs: they are left alone, and no proxy can stand before them."""

    bootstrap_servers: str

    @property
    def service_servers(self) -> str:
        return self.bootstrap_servers

    @property
    def routes(self) -> dict[int, int]:
        return {}

    def kill(self, node: int) -> None:
        raise RuntimeError(f"broker {node} is not ours to kill")

    def start(self, node: int) -> None:
        raise RuntimeError(f"broker {node} is not ours to start")


class Surroundings:
    """One broker is down at a time; all else may overlap."""

    def __init__(self, kafka: Brokers, proxy: Proxy, api: ScriptedApi | None, group: str, events_topic: str) -> None:
        self._kafka = kafka
        self._proxy = proxy
        self._api = api
        self._group = group
        self._events_topic = events_topic
        self._one_broker = asyncio.Lock()
        self._forker = ThreadPoolExecutor(1, "brokers")
        self._storms: list[Kind] = []

    def act(self, kind: Kind) -> Callable[[Deed, Slot], Coroutine[Any, Any, None]]:
        """What carries such a fault out; the slot is the process that is meant, if one is."""
        acts = {
            Kind.STEAL: self._steal,
            Kind.DISK_FULL: _fill_disk,
            **dict.fromkeys(BROKER_KINDS, self._kill_broker),
            **dict.fromkeys(NETWORK_KINDS, self._disturb),
            **dict.fromkeys(API_KINDS, self._storm),
        }
        return acts[kind]

    async def _disturb(self, deed: Deed, slot: Slot) -> None:
        try:
            async with asyncio.timeout(APPEAR_SECONDS):
                while not self._proxy.sky.links_of(slot.name):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            deed.miss("nobody was there")
            return
        deed.begin(f"connections of {slot.name}")
        if slot.process is not None:
            deed.pids.append(slot.process.pid)
        await self._proxy.sky.brew(slot.name, Weather(deed.fault.kind), deed.fault.hold_seconds)

    async def _storm(self, deed: Deed, _: Slot) -> None:
        assert self._api is not None
        self._storms.append(deed.fault.kind)
        self._api.always(self._reply)
        calls = len(self._api.calls)
        await asyncio.sleep(deed.fault.hold_seconds)
        self._storms.remove(deed.fault.kind)
        deed.note = f"{len(self._api.calls) - calls} calls"

    def _reply(self, _: Call) -> Reply | None:
        replies = {Kind.API_429: too_fast(retry_after_ms="300"), Kind.API_503: failed(503), Kind.API_HANG: hang()}
        return replies[self._storms[-1]] if self._storms else None

    async def _steal(self, deed: Deed, _: Slot) -> None:
        name = f"{self._group}.{self._events_topic}.{deed.fault.target}"
        try:
            await asyncio.to_thread(steal, self._kafka.bootstrap_servers, name)
        except KafkaException as error:
            deed.miss(f"not stolen: {error}")

    async def _kill_broker(self, deed: Deed, _: Slot) -> None:
        async with self._one_broker:
            node = deed.fault.target
            if deed.fault.kind is not Kind.BROKER:
                try:
                    node = await asyncio.to_thread(self._coordinator, deed.fault)
                except KafkaException as error:
                    deed.miss(f"the coordinator could not be found: {error}")
                    return
            deed.begin(f"node {node}")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._forker, self._kafka.kill, node)
            await asyncio.sleep(deed.fault.hold_seconds)
            await loop.run_in_executor(self._forker, self._kafka.start, node)

    def _coordinator(self, fault: Fault) -> int:
        if fault.kind is Kind.GROUP_COORDINATOR:
            topic, name = "__consumer_offsets", self._group
        else:
            topic, name = "__transaction_state", f"{self._group}.{self._events_topic}.{fault.target}"
        admin = AdminClient({"bootstrap.servers": self._kafka.bootstrap_servers, "log_level": 0})
        partitions = admin.list_topics(timeout=ASK_SECONDS).topics[topic].partitions
        return int(partitions[java_hash(name) % len(partitions)].leader)


def java_hash(text: str) -> int:
    """The absolute value of Java's String.hashCode, by which Kafka picks a coordinator's partition."""
    hashed = 0
    for character in text:
        hashed = (31 * hashed + ord(character)) & 0xFFFFFFFF
    # the least of Java's integers has no absolute value: Kafka takes 0
    return min(hashed, 2**32 - hashed) % 2**31


def steal(bootstrap_servers: str, transactional_id: str) -> None:
    """Take a transactional id, and go; blocks."""
    thief = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": transactional_id, "log_level": 0})
    thief.init_transactions(STEAL_SECONDS)


async def _fill_disk(deed: Deed, slot: Slot) -> None:
    if not slot.state.is_mount():
        deed.miss("not possible here: a small disk of its own takes root to mount")
        return
    filler = slot.state / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:  # it is full
            deed.note = f"after {file.tell()} bytes"
    await asyncio.sleep(deed.fault.hold_seconds)
    filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own for a folder, if this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607
