"""What the publisher puts on the topic, as an independent reader sees it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from consumer.settings import Settings
from producer import Publisher, PublishError
from producer.results import Results
from schemas.codec import encode
from schemas.codes import Reason, Route
from schemas.models import DeadLetter, EngineRef, Origin, Transcript, utc_now
from schemas.topics import Topics, digest_partition
from tests.support.kafka import PARTITIONS, Written, read_topic, write_records

pytestmark = pytest.mark.kafka


@pytest.fixture
async def publisher(kafka_settings: Settings, topics: Topics) -> AsyncIterator[Publisher]:
    async with Publisher(
        bootstrap_servers=kafka_settings.kafka_bootstrap_servers, topic_prefix=topics.prefix
    ) as publisher:
        yield publisher


@pytest.fixture
def servers(kafka_settings: Settings) -> str:
    return kafka_settings.kafka_bootstrap_servers


async def test_a_file_is_published_under_its_digest_in_the_partition_that_owns_it(
    publisher: Publisher, topics: Topics, servers: str, tmp_path: Path
) -> None:
    path = tmp_path / "Größe & 50%.wav"
    path.write_bytes(b"sound" * 100_000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    receipt = await publisher.publish(path, language="en", tenant="acme", critical=True, metadata={"call": "7"})

    (record,) = read_topic(servers, topics.events)
    assert record.key == digest
    assert record.partition == receipt.partition == digest_partition(digest, PARTITIONS)
    assert record.offset == receipt.offset
    event = record.json
    assert event["event_id"] == receipt.event_id
    assert event["uri"] == path.as_uri()
    assert "%20%26%2050%25" in event["uri"], "the address is percent-encoded"
    assert (event["sha256"], event["tenant"], event["language"]) == (digest, "acme", "en")
    assert (event["critical"], event["defer"], event["metadata"]) == (True, False, {"call": "7"})
    assert event["published_at"].endswith("Z")


async def test_equal_recordings_meet_in_one_partition_whichever_client_hashes_the_key(
    publisher: Publisher, topics: Topics, servers: str, tmp_path: Path
) -> None:
    for number in range(16):
        (tmp_path / f"{number}.wav").write_bytes(bytes([number]))
    receipts = await asyncio.gather(*(publisher.publish(tmp_path / f"{number}.wav") for number in range(16)))

    places = write_records(
        servers,
        topics.events,
        [Written(b"{}", (receipt.event.sha256 or "").encode()) for receipt in receipts],
    )

    assert [place[0] for place in places] == [receipt.partition for receipt in receipts]
    assert len({receipt.partition for receipt in receipts}) > 1


async def test_an_address_without_a_digest_is_keyed_by_its_event(
    publisher: Publisher, topics: Topics, servers: str
) -> None:
    receipt = await publisher.publish("https://media.example/a.mp3", event_id="call-7")

    (record,) = read_topic(servers, topics.events)
    assert (record.key, record.json["sha256"], receipt.event_id) == ("call-7", None, "call-7")


async def test_a_digest_in_capitals_is_published_in_lower_case(
    publisher: Publisher, topics: Topics, servers: str
) -> None:
    await publisher.publish("s3://bucket/a.mp3", sha256="AB" * 32)

    (record,) = read_topic(servers, topics.events)
    assert record.key == record.json["sha256"] == "ab" * 32


async def test_a_file_that_is_not_there_is_refused_before_anything_is_sent(
    publisher: Publisher, topics: Topics, servers: str, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match=r"gone\.wav: No such file"):
        await publisher.publish(tmp_path / "gone.wav")

    assert read_topic(servers, topics.events) == []


async def test_what_is_no_event_is_refused_with_the_field_at_fault(publisher: Publisher) -> None:
    with pytest.raises(PublishError, match=r"not a valid event: deadline_seconds"):
        await publisher.publish("https://media.example/a.mp3", deadline_seconds=-1)
    with pytest.raises(PublishError, match=r"not a valid event: uri"):
        await publisher.publish("gopher://media.example/a.mp3")


async def test_an_event_too_large_for_the_topic_is_refused_in_words(publisher: Publisher) -> None:
    with pytest.raises(PublishError, match="shorten reference_text or metadata"):
        await publisher.publish("https://media.example/a.mp3", reference_text="word " * 300_000)


async def test_a_missing_topic_is_said_with_the_command_that_makes_it(servers: str) -> None:
    with pytest.raises(PublishError, match=r"no topic nowhere\.events: run `earwitness topics create`"):
        async with Publisher(bootstrap_servers=servers, topic_prefix="nowhere"):
            pass
    with pytest.raises(PublishError, match=r"no topic nowhere\.transcripts and no .* run `earwitness topics create`"):
        async with Results(bootstrap_servers=servers, topic_prefix="nowhere"):
            pass


async def test_no_broker_is_an_error_that_names_the_address() -> None:
    with pytest.raises(PublishError, match=r"no Kafka broker answers at 127\.0\.0\.1:9"):
        async with Publisher(bootstrap_servers="127.0.0.1:9"):
            pass


async def test_an_address_that_is_none_is_an_error_that_names_it() -> None:
    with pytest.raises(PublishError, match="cannot connect to 'host:abc'"):
        async with Publisher("host:abc"):
            pass


async def test_a_send_is_a_producer_span_whose_context_travels_with_the_record(
    publisher: Publisher, topics: Topics, servers: str
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    publisher._tracer = provider.get_tracer("test")

    receipt = await publisher.publish("https://media.example/a.mp3", event_id="traced")

    span: ReadableSpan
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == (f"send {topics.events}", SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topics.events,
        "messaging.kafka.message.key": "traced",
        "messaging.message.id": "traced",
        "messaging.destination.partition.id": str(receipt.partition),
        "messaging.kafka.offset": receipt.offset,
    }
    (record,) = read_topic(servers, topics.events)
    context = span.get_span_context()
    assert context is not None
    assert (record.header("traceparent") or b"").startswith(
        f"00-{context.trace_id:032x}-{context.span_id:016x}-".encode()
    )


def transcript(event_id: str) -> Transcript:
    return Transcript(
        event_id=event_id,
        sha256="ab" * 32,
        tenant="default",
        text="hello",
        engine=EngineRef(name="simulated", model="simulated"),
        audio_seconds=1.0,
        route=Route.LOCAL,
        cached=False,
        cost_usd=0.0,
        published_at=utc_now(),
        completed_at=utc_now(),
    )


def dead_letter(event_id: str) -> DeadLetter:
    return DeadLetter(
        event_id=event_id,
        tenant="default",
        reason=Reason.NOT_FOUND,
        detail="gone",
        attempts=1,
        origin=Origin(topic="audio.events", partition=0, offset=0, timestamp_ms=0),
        payload_base64=None,
        failed_at=utc_now(),
    )


async def test_results_are_those_of_the_expected_events_from_now_on_whichever_way_they_ended(
    kafka_settings: Settings, topics: Topics, servers: str
) -> None:
    write_records(servers, topics.transcripts, [Written(encode(transcript("a")), b"a")])  # of an earlier life
    async with Results(bootstrap_servers=servers, topic_prefix=topics.prefix) as results, asyncio.timeout(30):
        results.expect("a")
        results.expect("b")
        results.no_more()
        assert results.waiting == {"a", "b"}
        write_records(
            servers,
            topics.transcripts,
            [Written(encode(transcript(name)), name.encode()) for name in ("stranger", "a", "a")],
        )
        write_records(servers, topics.dead_letters, [Written(encode(dead_letter("b")), b"b")])

        seen = [outcome async for outcome in results.outcomes()]

    assert {type(outcome) for outcome in seen} == {Transcript, DeadLetter}
    assert sorted(outcome.event_id or "" for outcome in seen) == ["a", "b"]
    assert not results.waiting
