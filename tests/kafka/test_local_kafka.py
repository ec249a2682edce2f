"""The Kafka that tests and demo run on is real, keeps its data, survives a lost node, and never outlives its owner."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose import kafka_jars, local_kafka
from compose.kafka_probe import free_ports, live_brokers
from compose.local_kafka import LocalKafka, LocalKafkaError
from tests.support.kafka import Written, make_topic, read_topic, write_records
from tests.support.leftovers import child_processes

pytestmark = [pytest.mark.kafka, pytest.mark.patient]
ROOT = Path(__file__).parents[2]


LONG_SECONDS = 60.0
"""Far beyond what it takes: a busy machine is no failure."""


def ended(pid: int, within_seconds: float = LONG_SECONDS) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_seconds)[0])
    finally:
        os.close(handle)


def until_alive(address: str, nodes: set[int]) -> None:
    """Wait until the broker knows just these as alive; a single answer may come too late on a busy machine."""
    deadline = time.monotonic() + LONG_SECONDS
    while (alive := live_brokers(int(address.rpartition(":")[2]))) != nodes:
        assert time.monotonic() < deadline, f"{address} knows {alive}"


def test_a_second_start_on_the_same_folder_keeps_what_the_first_one_held(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        first_address = kafka.bootstrap_servers
        make_topic(first_address, "kept")
        write_records(first_address, "kept", [Written(b"before", b"key")])
        pid = kafka.pid()
    assert ended(pid)

    with LocalKafka(tmp_path) as kafka:
        assert kafka.bootstrap_servers != first_address, "ports may change and clients must be told"
        assert [record.value for record in read_topic(kafka.bootstrap_servers, "kept")] == [b"before"]


def test_a_broker_that_loses_power_comes_back_on_its_port_with_every_confirmed_record(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        make_topic(kafka.bootstrap_servers, "kept")
        write_records(kafka.bootstrap_servers, "kept", [Written(str(number).encode()) for number in range(100)])
        address, pid = kafka.bootstrap_servers, kafka.pid()

        kafka.kill()
        assert ended(pid)
        assert live_brokers(int(address.rpartition(":")[2])) == set()
        kafka.start()

        assert kafka.bootstrap_servers == address
        assert len(read_topic(address, "kept")) == 100


def test_a_cluster_takes_records_while_a_node_is_down_and_shows_them_when_it_is_back(kafka_cluster: LocalKafka) -> None:
    servers = kafka_cluster.bootstrap_servers
    assert len(servers.split(",")) == 3
    make_topic(servers, "replicated")
    write_records(servers, "replicated", [Written(b"with three")])

    kafka_cluster.kill(2)
    write_records(servers, "replicated", [Written(b"with two", partition=number) for number in range(4)])
    kafka_cluster.start(2)

    assert len(read_topic(servers, "replicated")) == 5
    until_alive(servers.split(",")[1], {1, 2, 3})


def test_an_error_in_the_block_stops_the_broker_and_comes_through(tmp_path: Path) -> None:
    pids = []

    def fail_inside() -> None:
        with LocalKafka(tmp_path) as kafka:
            pids.append(kafka.pid())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert ended(*pids)


def test_a_port_that_somebody_takes_in_the_meantime_costs_one_more_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        taken = free_ports(2)
        other.bind(("127.0.0.1", taken[0]))
        other.listen()
        offers = iter([taken, free_ports(2)])
        monkeypatch.setattr(local_kafka, "free_ports", lambda _count: next(offers))

        with LocalKafka(tmp_path) as kafka:
            assert not kafka.bootstrap_servers.endswith(f":{taken[0]}")


def test_a_stopped_process_can_still_be_stopped_for_good(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        pid = kafka.pid()
        os.kill(pid, signal.SIGSTOP)
    assert ended(pid)


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalKafkaError, match=r"(?s)node 1 .*num\.io\.threads"),
        LocalKafka(tmp_path, properties={"num.io.threads": "none"}),
    ):
        pass


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_the_command_prints_the_address_and_takes_the_broker_with_it_however_it_ends(
    tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "compose.local_kafka", "--data", str(tmp_path)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's & hands it on
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            (broker,) = child_processes(process.pid)
            until_alive(address, {1})

            process.send_signal(sign)

            assert process.wait(LONG_SECONDS) == code
        finally:
            process.kill()
    assert ended(broker)


def test_jars_that_are_not_those_of_the_lock_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "kafka.lock.toml"
    lock.write_text(kafka_jars.LOCK.read_text(encoding="utf-8").replace('sha256 = "', 'sha256 = "0', 1))
    folder = kafka_jars.jars()[0].parent
    monkeypatch.setattr(kafka_jars, "LOCK", lock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = kafka_jars.cached_folder()
    wanted.parent.mkdir()
    wanted.symlink_to(folder)

    with pytest.raises(kafka_jars.JarError, match=r"kafka_2\.13-4\.2\.0\.jar"):
        kafka_jars.jars()


def test_the_lock_names_every_jar_by_its_digest_and_no_place_to_fetch_it_from() -> None:
    text = kafka_jars.LOCK.read_text(encoding="utf-8")
    assert text.count("[[dependencies]]") == text.count("sha256 = ") == len(kafka_jars.jars())
    assert "://" not in text


def test_ports_are_free_and_never_those_that_outgoing_connections_get() -> None:
    ports = free_ports(6)
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 6
    assert all(1024 < port < lowest for port in ports)
    assert live_brokers(ports[0]) == set()
