"""The commands that talk to Kafka, against a real one."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Reason, Route
from schemas.models import DeadLetter, EngineRef, Origin, Transcript, utc_now
from tests.support.cli import Earwitness, on_broker
from tests.support.kafka import Read, Written, make_topic, read_topic, write_records

pytestmark = pytest.mark.kafka


@pytest.fixture
def earwitness(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Earwitness:
    return on_broker(kafka_settings, tmp_path, monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("a.wav", "b.wav", "c.flac"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_topics_are_created_once_and_then_pass_their_check(earwitness: Earwitness, kafka_settings: Settings) -> None:
    count = len(kafka_settings.topics.specs(4, kafka_settings.max_event_bytes))
    assert earwitness("topics", "check") == 1
    assert earwitness.err.count("is missing") == count
    assert earwitness("topics", "create") == 0
    assert earwitness.out.count("created  ") == count
    assert earwitness("topics", "create", "--partitions", "9") == 0
    assert earwitness.out.count("exists   ") == count
    assert earwitness("topics", "check") == 0
    assert earwitness.out == "the topics fit: 4 partitions each\n"


def test_creating_topics_beside_an_unfit_one_ends_with_1_and_the_command_that_mends_it(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    make_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.dedup, 4)
    assert earwitness("topics", "create") == 1
    assert f"--entity-name {kafka_settings.topics.dedup} --add-config cleanup.policy=compact" in earwitness.err


def test_a_folder_becomes_one_event_for_each_recording(
    earwitness: Earwitness, kafka_settings: Settings, folder: Path
) -> None:
    earwitness("topics", "create")

    assert earwitness("publish", "recordings", "--tenant", "acme", "--metadata", "day=one", "--json") == 0

    printed = [json.loads(line)["published"] for line in earwitness.out.splitlines()]
    assert {row["uri"] for row in printed} == {path.as_uri() for path in folder.iterdir()}
    assert earwitness.err == "3 published\n"
    events = [
        record.json for record in read_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.events)
    ]
    assert {event["event_id"] for event in events} == {row["event_id"] for row in printed}
    assert {event["tenant"] for event in events} == {"acme"}
    assert all(event["metadata"] == {"day": "one"} and event["sha256"] for event in events)


def test_a_manifest_says_for_each_event_what_flags_say_for_all(
    earwitness: Earwitness, kafka_settings: Settings, folder: Path, tmp_path: Path
) -> None:
    earwitness("topics", "create")
    (tmp_path / "events.jsonl").write_text(
        '{"uri": "recordings/a.wav", "event_id": "1", "language": "de"}\n'
        '{"uri": "s3://bucket/b.wav", "event_id": "2"}\n'
    )

    assert earwitness("publish", "--jsonl", "events.jsonl", "--language", "en", "--no-digest", "--critical") == 0

    records = read_topic(kafka_settings.kafka_bootstrap_servers, kafka_settings.topics.events)
    events = {record.json["event_id"]: record.json for record in records}
    assert {event_id: event["language"] for event_id, event in events.items()} == {"1": "de", "2": "en"}
    assert all(event["critical"] and event["sha256"] is None for event in events.values())


class Service:
    """Stands in for the service: answers each event once all are there."""

    def __init__(self, settings: Settings, events: int, answer: Callable[[Read], Transcript | DeadLetter]) -> None:
        self._settings, self._events, self._answer = settings, events, answer
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        servers, topics = self._settings.kafka_bootstrap_servers, self._settings.topics
        records: list[Read] = []
        while len(records) < self._events:
            records = read_topic(servers, topics.events)
        for record in records:
            outcome = self._answer(record)
            topic = topics.transcripts if isinstance(outcome, Transcript) else topics.dead_letters
            write_records(servers, topic, [Written(encode(outcome), (outcome.event_id or "").encode())])


def heard(record: Read) -> Transcript:
    event = record.json
    return Transcript(
        event_id=event["event_id"],
        sha256=event["sha256"],
        tenant="default",
        text=f"heard {event['uri'][-5:]}",
        engine=EngineRef(name="simulated", model="simulated"),
        audio_seconds=1.0,
        route=Route.LOCAL,
        cached=False,
        cost_usd=0.0,
        published_at=utc_now(),
        completed_at=utc_now(),
    )


def corrupt_if_flac(record: Read) -> Transcript | DeadLetter:
    if not record.json["uri"].endswith(".flac"):
        return heard(record)
    return DeadLetter(
        event_id=record.json["event_id"],
        tenant="default",
        reason=Reason.CORRUPT_AUDIO,
        detail="not audio; record it again",
        attempts=1,
        origin=Origin(
            topic=record.topic, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
        ),
        payload_base64=None,
        failed_at=utc_now(),
    )


def test_waiting_prints_what_was_heard(earwitness: Earwitness, kafka_settings: Settings, folder: Path) -> None:
    earwitness("topics", "create")

    with Service(kafka_settings, 3, heard):
        assert earwitness("publish", "recordings", "--wait") == 0

    assert {line.strip() for line in earwitness.out.splitlines() if "heard " in line and "heard  " not in line} == {
        "heard a.wav",
        "heard b.wav",
        "heard .flac",
    }
    assert earwitness.err == "3 published, 3 heard, 0 dead letters\n"


def test_waiting_ends_with_1_if_a_recording_could_not_be_heard_and_says_why(
    earwitness: Earwitness, kafka_settings: Settings, folder: Path
) -> None:
    earwitness("topics", "create")

    with Service(kafka_settings, 3, corrupt_if_flac):
        assert earwitness("publish", "recordings", "--wait", "--json") == 1

    rows = [json.loads(line) for line in earwitness.out.splitlines()]
    assert sorted(kind for row in rows for kind in row) == ["dead_letter", *["published"] * 3, *["transcript"] * 2]
    assert earwitness.err == "earwitness: 3 published, 2 heard, 1 dead letters\n"


def test_waiting_in_vain_ends_with_1_and_names_the_event(earwitness: Earwitness, folder: Path) -> None:
    earwitness("topics", "create")

    assert earwitness("publish", "recordings/a.wav", "--event-id", "call-7", "--wait", "--timeout", "0.2") == 1

    assert earwitness.err == "earwitness: no outcome within 0.2 s for call-7\n"
