"""The topics are made once, all alike, and a topic that breaks a promise is found before it does."""

import asyncio
import secrets

import pytest

from consumer.errors import ServiceError
from consumer.kafka.topics import CreatedTopic, check, create
from consumer.settings import Settings
from schemas.topics import Topics, outcome_bytes
from tests.support.kafka import make_topic, partition_count, topic_names

pytestmark = pytest.mark.kafka


async def test_topics_are_made_with_equal_partitions_and_pass_their_own_check(kafka_settings: Settings) -> None:
    made = await create(kafka_settings)

    names = kafka_settings.topics
    assert [topic.name for topic in made] == [
        names.events,
        names.transcripts,
        names.metrics,
        names.dedup,
        names.dead_letters,
        names.parked,
        names.budget,
        names.alerts,
    ]
    assert all(topic == CreatedTopic(topic.name, 4, existed=False) for topic in made)
    assert await check(kafka_settings) == 4


async def test_making_topics_again_changes_nothing_and_says_that_they_existed(
    kafka_settings: Settings, topics: Topics
) -> None:
    again = await create(kafka_settings.model_copy(update={"partitions": 9}))

    assert {topic.existed for topic in again} == {True}
    assert {topic.partitions for topic in again} == {4}


async def test_missing_topics_take_the_partition_count_of_those_that_exist(kafka_settings: Settings) -> None:
    names = kafka_settings.topics
    make_topic(kafka_settings.kafka_bootstrap_servers, names.events, 3, {"max.message.bytes": "1048576"})

    made = await create(kafka_settings)

    assert {topic.name: topic.existed for topic in made}[names.events] is True
    assert {partition_count(kafka_settings.kafka_bootstrap_servers, topic.name) for topic in made} == {3}
    assert await check(kafka_settings) == 3


async def test_two_who_make_the_topics_at_once_with_different_wishes_end_with_one_partition_count(
    kafka_settings: Settings,
) -> None:
    await asyncio.gather(create(kafka_settings), create(kafka_settings.model_copy(update={"partitions": 7})))

    assert await check(kafka_settings) in {4, 7}


async def test_the_check_lists_every_missing_topic_and_how_to_make_it(kafka_settings: Settings) -> None:
    with pytest.raises(ServiceError) as caught:
        await check(kafka_settings)

    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(kafka_settings.topics.specs(4, kafka_settings.max_event_bytes))
    assert all("is missing: run `earwitness topics create`" in line for line in lines)
    assert not {name for name in topic_names(kafka_settings.kafka_bootstrap_servers) if "test-" in name} & {
        kafka_settings.topics.events
    }, "looking must not create"


async def test_the_check_names_every_topic_that_breaks_a_promise_and_the_command_that_mends_it(
    kafka_settings: Settings,
) -> None:
    names, servers = kafka_settings.topics, kafka_settings.kafka_bootstrap_servers
    make_topic(servers, names.dedup, 2, {"cleanup.policy": "delete"})
    make_topic(servers, names.events, 4, {"cleanup.policy": "compact", "max.message.bytes": "1000"})
    make_topic(servers, names.transcripts, 4)

    with pytest.raises(ServiceError) as caught:
        await check(kafka_settings)

    said = str(caught.value)
    assert f"partition counts differ ({names.events} 4, {names.transcripts} 4, {names.dedup} 2)" in said
    assert f"--entity-name {names.dedup} --add-config cleanup.policy=compact" in said
    assert f"--entity-name {names.dedup} --add-config delete.retention.ms=7776000000" in said
    assert f"--entity-name {names.events} --add-config cleanup.policy=delete" in said
    assert f"{names.events}: max.message.bytes is 1000, must be at least 1048576" in said
    assert f"--entity-name {names.transcripts} --add-config max.message.bytes={outcome_bytes(1048576)}" in said
    assert f"{names.metrics} is missing" in said


async def test_a_dedup_topic_that_also_deletes_old_entries_is_fine(kafka_settings: Settings) -> None:
    names = kafka_settings.topics
    make_topic(
        kafka_settings.kafka_bootstrap_servers,
        names.dedup,
        4,
        {
            "cleanup.policy": "compact,delete",
            "delete.retention.ms": "7776000000",
            "max.message.bytes": str(outcome_bytes(kafka_settings.max_event_bytes)),
        },
    )
    await create(kafka_settings)

    assert await check(kafka_settings) == 4


async def test_more_copies_than_brokers_is_refused_with_the_brokers_own_words(kafka_settings: Settings) -> None:
    wish = kafka_settings.model_copy(update={"replication_factor": 3, "topic_prefix": f"rf-{secrets.token_hex(4)}"})

    with pytest.raises(ServiceError, match="topics could not be made") as caught:
        await create(wish)

    assert "InvalidReplicationFactor" in str(caught.value)


async def test_no_broker_is_said_in_one_clear_line() -> None:
    with pytest.raises(ServiceError, match=r"no Kafka broker answers at 127\.0\.0\.1:9") as caught:
        await check(Settings(kafka_bootstrap_servers="127.0.0.1:9"))

    assert "\n" not in str(caught.value)
