"""What a local broker is told: small, quick to start, quick to notice a dead peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Node:
    """One broker and controller, its folder and its ports."""

    number: int
    folder: Path
    port: int = 0
    controller_port: int = 0

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    @property
    def is_formatted(self) -> bool:
        return (self.data / "meta.properties").exists()

    def log_tail(self, lines: int = 25) -> str:
        """The end of what the broker wrote."""
        if not self.log.exists():
            return f"{self.log}: nothing written"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def server_properties(node: Node, nodes: Sequence[Node], overrides: dict[str, str]) -> str:
    """The node's ``server.properties``."""
    copies, in_sync = min(3, len(nodes)), min(2, len(nodes))
    settings = {
        "process.roles": "broker,controller",
        "node.id": node.number,
        "controller.quorum.voters": ",".join(f"{peer.number}@127.0.0.1:{peer.controller_port}" for peer in nodes),
        "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": node.data,
        "auto.create.topics.enable": "false",
        "num.partitions": 4,
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": 4,  # coordinators load quickly
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 4000,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        **overrides,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
