"""What every test shares: Kafka when asked for, and a guard against what a test leaves behind."""

import inspect
import os
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest

from compose.local_kafka import LocalKafka
from consumer.kafka.topics import create
from consumer.settings import PREFIX, Settings
from schemas.topics import Topics
from tests.support.kafka import Broker, fresh_settings
from tests.support.leftovers import child_processes, new_children, watched_loop

BOOTSTRAP = "EARWITNESS_TEST_BOOTSTRAP"
"""Names a broker to use instead of one that the tests start."""
hypothesis.settings.register_profile("earwitness", deadline=None)
hypothesis.settings.load_profile("earwitness")  # no test depends on the machine's speed
_shared_kafkas: list[LocalKafka] = []


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX) and name != BOOTSTRAP]:
        del os.environ[name]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for the whole session, started for the first test that asks for it."""
    if named := os.environ.get(BOOTSTRAP):
        yield Broker(named)
        return
    with _shared(LocalKafka(tmp_path_factory.mktemp("kafka"))) as local:
        yield Broker(local.bootstrap_servers)
        local.stop(gently=False)


@pytest.fixture(scope="module")
def _three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with _shared(LocalKafka(tmp_path_factory.mktemp("kafka-cluster"), nodes=3)) as cluster:
        yield cluster
        cluster.stop(gently=False)


@pytest.fixture
def kafka_cluster(_three_nodes: LocalKafka) -> LocalKafka:
    """Three brokers, all of them up, for a test to kill; the module's tests share them."""
    _three_nodes.start()
    return _three_nodes


@pytest.fixture
def kafka_settings(kafka: Broker) -> Settings:
    """Settings for the session's broker under a prefix and a group that nobody else uses."""
    return fresh_settings(kafka.bootstrap_servers)


@pytest.fixture
async def topics(kafka_settings: Settings) -> Topics:
    """Fresh topics of four partitions under the prefix of ``kafka_settings``."""
    await create(kafka_settings)
    return kafka_settings.topics


@pytest.fixture
async def _watched_loop() -> AsyncIterator[None]:
    async with watched_loop() as faults:
        yield
    assert not faults, "\n".join(faults)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_watched_loop")
    before = child_processes()
    yield
    left = new_children(before, {pid for local in _shared_kafkas for pid in local.pids})
    assert not left, f"child processes left running: {left}"


def _shared(local: LocalKafka) -> LocalKafka:
    _shared_kafkas.append(local)
    return local
