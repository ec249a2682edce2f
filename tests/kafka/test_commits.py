"""Commits in doubt, honest reads, and what the client library does without them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from compose.local_kafka import LocalKafka
from consumer.core.offsets import CommitPoint
from consumer.core.outcomes import Write
from consumer.errors import FencedError
from consumer.kafka.client import connection
from consumer.kafka.commits import LaneCommits
from consumer.kafka.committed import CommittedOffsets
from consumer.kafka.topics import create
from consumer.kafka.transaction import DoubtfulError, LaneProducer, OffsetCommit
from consumer.settings import Settings
from schemas.topics import Topics
from tests.support.kafka import fresh_settings, read_topic

pytestmark = pytest.mark.kafka


@pytest.fixture
async def client(kafka_settings: Settings, topics: Topics) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(**connection(kafka_settings))
    await client.bootstrap()
    yield client
    await client.close()


def producer_of(settings: Settings) -> LaneProducer:
    return LaneProducer(
        connection(settings),
        transactional_id=f"{settings.group_id}.{settings.topics.events}.0",
        group_id=settings.group_id,
        timeout_seconds=5.0,
        max_request_bytes=settings.max_event_bytes * 4,
    )


def commits_of(settings: Settings, client: AIOKafkaClient, producer: LaneProducer) -> LaneCommits:
    return LaneCommits(
        TopicPartition(settings.topics.events, 0),
        settings.topics.dedup,
        settings.group_id,
        producer,
        CommittedOffsets(client, settings.group_id),
        process="us",
        still_assigned=lambda: True,
    )


async def test_a_commit_in_doubt_is_given_up_when_another_owner_has_committed_under_the_same_number(
    kafka_settings: Settings, client: AIOKafkaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcript = kafka_settings.topics.transcripts
    zombies, heirs = producer_of(kafka_settings), producer_of(kafka_settings)
    zombie, heir = commits_of(kafka_settings, client, zombies), commits_of(kafka_settings, client, heirs)
    await zombie.take_over()
    await zombie.read_last()
    await heir.take_over()
    await heir.read_last()
    await heir.commit([Write(transcript, b"k", b"heir")], CommitPoint(1))

    async def unanswered(*_: object) -> list[int]:
        raise DoubtfulError("no answer", retriable=True)

    monkeypatch.setattr(zombies, "commit", unanswered)
    with pytest.raises(FencedError):
        await zombie.commit([Write(transcript, b"k", b"zombie")], CommitPoint(1))

    await zombie.stop()
    await heir.stop()
    found = read_topic(kafka_settings.kafka_bootstrap_servers, transcript)
    assert [read.value for read in found] == [b"heir"]


async def test_a_fenced_owner_publishes_nothing(kafka_settings: Settings, client: AIOKafkaClient) -> None:
    old, new = producer_of(kafka_settings), producer_of(kafka_settings)
    await old.fence()
    await new.fence()

    with pytest.raises(FencedError):
        await old.commit([Write(kafka_settings.topics.transcripts, b"k", b"zombie")], None)

    await new.stop()
    assert read_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.transcripts) == []


async def test_a_send_that_fails_fails_the_whole_transaction(kafka_settings: Settings, client: AIOKafkaClient) -> None:
    events = TopicPartition(kafka_settings.topics.events, 0)
    producer = producer_of(kafka_settings)
    await producer.fence()
    fits, too_large = (
        Write(kafka_settings.topics.transcripts, b"k", b"fits"),
        Write(kafka_settings.topics.transcripts, b"k", b"x" * (kafka_settings.max_event_bytes * 2), partition=0),
    )

    with pytest.raises(DoubtfulError):
        await producer.commit([fits, too_large], OffsetCommit(events, 5, ""))

    await producer.fence()
    await producer.stop()
    found = await CommittedOffsets(client, kafka_settings.group_id).read(events)
    assert found.offset is None
    assert read_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.transcripts) == []


async def test_the_client_library_alone_commits_although_a_send_failed(
    kafka_settings: Settings, client: AIOKafkaClient
) -> None:
    # the reason for the rule above; should this fail one day, the library has learnt it
    events = TopicPartition(kafka_settings.topics.events, 0)
    async with AIOKafkaProducer(
        **connection(kafka_settings), transactional_id="naive", max_request_size=kafka_settings.max_event_bytes * 4
    ) as naive:
        await naive.begin_transaction()
        lost = await naive.send(kafka_settings.topics.transcripts, b"x" * (kafka_settings.max_event_bytes * 2))
        await naive.send_offsets_to_transaction({events: OffsetAndMetadata(5, "")}, kafka_settings.group_id)
        await naive.commit_transaction()
        assert lost.exception() is not None

    async with AIOKafkaProducer(**connection(kafka_settings), transactional_id="naive"):
        assert (await CommittedOffsets(client, kafka_settings.group_id).read(events)).offset == 5


async def test_a_connection_lost_while_a_transaction_ended_replaces_the_producer(
    kafka_settings: Settings, client: AIOKafkaClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiokafka.errors import KafkaConnectionError
    from aiokafka.protocol.transaction import EndTxnRequest

    send = AIOKafkaClient.send
    failed: list[object] = []

    async def breaks_once(self: AIOKafkaClient, node: int, request: object, **more: object) -> object:
        if isinstance(request, EndTxnRequest) and not failed:
            failed.append(request)
            raise KafkaConnectionError("reset")
        return await send(self, node, request, **more)

    monkeypatch.setattr(AIOKafkaClient, "send", breaks_once)
    producer = producer_of(kafka_settings)
    await producer.fence()
    write = Write(kafka_settings.topics.transcripts, b"k", b"once")
    await producer.commit([write], None)

    # the first request to end it may still arrive, and must not end a later transaction
    with pytest.raises(DoubtfulError):
        await producer.commit([write], None)
    await producer.stop()
    assert len(read_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.transcripts)) == 1


async def test_a_committed_offset_is_read_from_the_right_coordinator_only(kafka_cluster: LocalKafka) -> None:
    settings = fresh_settings(kafka_cluster.bootstrap_servers)
    await create(settings)
    events = TopicPartition(settings.topics.events, 0)
    producer = producer_of(settings)
    await producer.fence()
    await producer.commit([], OffsetCommit(events, 7, "note"))
    await producer.fence()
    await producer.stop()
    client = AIOKafkaClient(**connection(settings))
    admin = AIOKafkaAdminClient(**connection(settings))
    await client.bootstrap()
    await admin.start()
    try:
        right = await client.coordinator_lookup(CoordinationType.GROUP, settings.group_id)
        wrong = next(broker.nodeId for broker in client.cluster.brokers() if broker.nodeId != right)
        naive = await admin.list_consumer_group_offsets(settings.group_id, wrong, [events])
        assert naive == {}, "the library tells of the error now: the honest read may not be needed any more"

        lookup = client.coordinator_lookup
        asked: list[str] = []

        async def misleads_once(kind: int, key: str) -> int:
            asked.append(key)
            return int(wrong if len(asked) == 1 else await lookup(kind, key))

        client.coordinator_lookup = misleads_once
        async with asyncio.timeout(30):
            found = await CommittedOffsets(client, settings.group_id).read(events)
        assert (found.offset, found.metadata, len(asked)) == (7, "note", 2)
    finally:
        await admin.close()
        await client.close()
