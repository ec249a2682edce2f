"""Makes the service's topics, and checks that they are what its promises rest on."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from consumer.errors import ServiceError
from consumer.kafka.client import admin_client
from consumer.settings import Settings
from schemas.topics import TopicSpec

T = TypeVar("T")
TIMEOUT_SECONDS = 30.0
_RETRY_SECONDS = 0.1
_PROPAGATION_SECONDS = 2.0
"""How long a broker may take to hear of a topic that was made at another one."""
_AT_LEAST = ("max.message.bytes", "delete.retention.ms")
_CLEANUP = "cleanup.policy"


@dataclass(frozen=True, slots=True)
class CreatedTopic:
    """A topic after ``create``."""

    name: str
    partitions: int
    existed: bool


async def create(settings: Settings) -> list[CreatedTopic]:
    """Make the topics that are missing; returns all of them once every partition has a leader.

    Existing topics stay as they are (``check`` judges them), and new ones take their partition count, since all
    must have the same. Raises ServiceError.
    """
    specs, made = _specs(settings), set[str]()

    async def make(admin: AIOKafkaAdminClient) -> dict[str, int]:
        existing = await _partition_counts(admin)
        partitions = next((existing[spec.name] for spec in specs if spec.name in existing), settings.partitions)
        # The input topic comes first and then decides: a broker may not know yet what somebody else has just made.
        made.update(await _make(admin, [specs[0]], existing, partitions, settings.replication_factor))
        await _wait_for_leaders(admin, [specs[0].name])
        partitions = (await _counts_of(admin, specs[:1]))[specs[0].name]
        made.update(await _make(admin, specs[1:], existing, partitions, settings.replication_factor))
        await _wait_for_leaders(admin, [spec.name for spec in specs])
        return await _counts_of(admin, specs)

    counts = await _settle(settings, make)
    return [CreatedTopic(spec.name, counts[spec.name], spec.name not in made) for spec in specs]


async def check(settings: Settings) -> int:
    """The partition count that all topics share.

    Raises ServiceError with every mismatch and how to mend it.
    """
    specs = _specs(settings)

    async def look(admin: AIOKafkaAdminClient) -> tuple[dict[str, int], dict[str, dict[str, str | None]]]:
        counts = await _patient_counts(admin, specs)
        return counts, await _configs(admin, [spec for spec in specs if spec.name in counts])

    counts, configs = await _settle(settings, look)
    present = [spec for spec in specs if spec.name in counts]
    faults = [f"{spec.name} is missing: run `earwitness topics create`" for spec in specs if spec not in present]
    faults += _count_faults({spec.name: counts[spec.name] for spec in present})
    for spec in present:
        faults += config_faults(spec, configs[spec.name])
    if faults:
        raise ServiceError("the topics do not fit:\n" + "\n".join(f"- {fault}" for fault in faults))
    return counts[settings.topics.events]


async def partition_counts(settings: Settings) -> dict[str, int]:
    """Every topic of the cluster with its partition count; looking makes none. Raises ServiceError."""
    return await _settle(settings, _partition_counts)


async def make_if_missing(settings: Settings, spec: TopicSpec) -> None:
    """Make one topic unless it is there; returns when every partition has a leader. Raises ServiceError."""

    async def make(admin: AIOKafkaAdminClient) -> None:
        existing = await _partition_counts(admin)
        await _make(admin, [spec], existing, spec.partitions, settings.replication_factor)
        await _wait_for_leaders(admin, [spec.name])

    await _settle(settings, make)


def config_faults(spec: TopicSpec, actual: Mapping[str, str | None]) -> list[str]:
    """What is wrong with a topic's settings, each with the command that mends it."""
    faults = [
        _mend(spec, name, actual.get(name), spec.config[name], "must be at least")
        for name in _AT_LEAST
        if name in spec.config and int(actual.get(name) or 0) < int(spec.config[name])
    ]
    wanted = spec.config.get(_CLEANUP, "delete")
    if wanted not in (policies := (actual.get(_CLEANUP) or "").split(",")):
        faults.append(_mend(spec, _CLEANUP, actual.get(_CLEANUP), wanted, "must hold"))
    elif wanted == "delete" and "compact" in policies:
        faults.append(_mend(spec, _CLEANUP, actual.get(_CLEANUP), wanted, "would lose records, it must be"))
    return faults


def _mend(spec: TopicSpec, name: str, actual: str | None, wanted: str, demand: str) -> str:
    return (
        f"{spec.name}: {name} is {actual}, {demand} {wanted}: "
        f"kafka-configs.sh --alter --entity-type topics --entity-name {spec.name} --add-config {name}={wanted}"
    )


def _count_faults(counts: Mapping[str, int]) -> list[str]:
    if len(set(counts.values())) <= 1:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    # raising a count later would move digests away from what is remembered about them
    return [f"the topics' partition counts differ ({listed}): make the topics anew, or others under a new topic_prefix"]


def _specs(settings: Settings) -> list[TopicSpec]:
    return settings.topics.specs(settings.partitions, settings.max_event_bytes)


async def _settle(settings: Settings, work: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    """Do what may be done again, until it works or time is up: a broker may be down. Raises ServiceError only."""
    last: KafkaError | None = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), admin_client(settings) as admin:
            while True:
                try:
                    return await work(admin)
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    last = error
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError as error:
        told = f" ({_named(last)})" if last is not None else ""
        raise ServiceError(
            f"Kafka at {settings.kafka_bootstrap_servers} did not settle the topics within {TIMEOUT_SECONDS:.0f} s"
            f"{told}; are enough brokers up for the replication factor?"
        ) from error
    except KafkaError as error:
        raise ServiceError(f"Kafka at {settings.kafka_bootstrap_servers}: {_named(error)}") from error


async def _counts_of(admin: AIOKafkaAdminClient, specs: list[TopicSpec]) -> dict[str, int]:
    """Partition counts; raises a retriable error while the broker that was asked does not know every topic yet."""
    counts = await _partition_counts(admin)
    if unknown := [spec.name for spec in specs if spec.name not in counts]:
        raise UnknownTopicOrPartitionError(", ".join(unknown))
    return counts


async def _patient_counts(admin: AIOKafkaAdminClient, specs: list[TopicSpec]) -> dict[str, int]:
    """Partition counts; a topic that was made at another broker a moment ago is waited for, a missing one is not."""
    end = asyncio.get_running_loop().time() + _PROPAGATION_SECONDS
    while True:
        try:
            return await _counts_of(admin, specs)
        except UnknownTopicOrPartitionError:
            if asyncio.get_running_loop().time() > end:
                return await _partition_counts(admin)
        await asyncio.sleep(_RETRY_SECONDS)


async def _make(
    admin: AIOKafkaAdminClient,
    specs: list[TopicSpec],
    existing: Container[str],
    partitions: int,
    replication_factor: int,
) -> set[str]:
    missing = [spec for spec in specs if spec.name not in existing]
    if not missing:
        return set()
    copies = replication_factor if replication_factor > 0 else await _default_copies(admin)
    topics = [NewTopic(spec.name, partitions, copies, topic_configs=spec.config) for spec in missing]
    response = await admin.create_topics(topics)
    made, faults = set(), []
    for name, code, message in response.topic_errors:
        if code == 0:
            made.add(name)
        elif code != TopicAlreadyExistsError.errno:  # somebody else was quicker
            faults.append(f"- {name}: {_named(for_code(code)())}: {message}")
    if faults:
        raise ServiceError("topics could not be made:\n" + "\n".join(faults))
    return made


async def _default_copies(admin: AIOKafkaAdminClient) -> int:
    """The broker's own ``default.replication.factor``: the requests that aiokafka speaks cannot say "your default"."""
    brokers = (await admin.describe_cluster())["brokers"]
    resource = ConfigResource(ConfigResourceType.BROKER, str(brokers[0]["node_id"]))
    configs = await _describe_configs(admin, [resource])
    return int(configs[resource.name]["default.replication.factor"] or 1)


async def _wait_for_leaders(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    """Just after creation a broker may not know a topic, or not lead it yet."""
    while True:
        topics = await _describe(admin, names)
        if len(topics) == len(names) and all(map(_has_leaders, topics)):
            return
        await asyncio.sleep(_RETRY_SECONDS)


def _has_leaders(topic: Mapping[str, Any]) -> bool:
    leaders = [partition["leader"] for partition in topic["partitions"]]
    return topic["error_code"] == 0 and bool(leaders) and min(leaders) >= 0


async def _describe(admin: AIOKafkaAdminClient, names: Iterable[str] | None = None) -> list[Mapping[str, Any]]:
    # all topics are asked for: asking by name would make a broker with auto.create.topics.enable create them
    wanted = None if names is None else set(names)
    return [topic for topic in await admin.describe_topics() if wanted is None or topic["topic"] in wanted]


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    return {topic["topic"]: len(topic["partitions"]) for topic in await _describe(admin)}


async def _configs(admin: AIOKafkaAdminClient, specs: Iterable[TopicSpec]) -> dict[str, dict[str, str | None]]:
    return await _describe_configs(admin, [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in specs])


async def _describe_configs(
    admin: AIOKafkaAdminClient, resources: list[ConfigResource]
) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            if code != 0:
                raise ServiceError(f"{name}: its settings cannot be read: {_named(for_code(code)())}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _named(error: KafkaError) -> str:
    return str(error) or type(error).__name__
