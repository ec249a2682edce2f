"""``earwitness dead-letters``, against a real Kafka: what it prints, what it asks, and how it ends."""

import io
import json
import sys
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Header, Reason
from schemas.models import DeadLetter, Origin, utc_now
from tests.support.cli import Earwitness, on_broker
from tests.support.kafka import Read, Written, read_topic, write_records

pytestmark = pytest.mark.kafka


@pytest.fixture
def earwitness(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Earwitness:
    command = on_broker(kafka_settings, tmp_path, monkeypatch, capsys)
    command("topics", "create")
    return command


def letter(event_id: str, reason: Reason = Reason.NOT_FOUND, *, hours_ago: float = 1.0, **event: object) -> DeadLetter:
    fields = {"event_id": event_id, "uri": f"https://media.example/{event_id}.wav?sig=secret", **event}
    return DeadLetter(
        event_id=event_id,
        tenant="acme" if event_id.startswith("a") else "beta",
        reason=reason,
        detail="nothing is there; put it there",
        attempts=2,
        origin=Origin(
            topic="audio.events",
            partition=1,
            offset=12,
            timestamp_ms=1_700_000_000_000,
            key_base64=b64encode(event_id.encode()).decode(),
            headers=[(Header.TRACEPARENT, b64encode(b"00-aa-bb-01").decode())],
        ),
        payload_base64=b64encode(json.dumps(fields).encode()).decode(),
        failed_at=utc_now() - timedelta(hours=hours_ago),
    )


def write(settings: Settings, *letters: DeadLetter | bytes) -> list[str]:
    """Letters in one partition; their ids."""
    values = [found if isinstance(found, bytes) else encode(found) for found in letters]
    records = [Written(value, b"k", partition=2) for value in values]
    places = write_records(settings.kafka_bootstrap_servers, settings.topics.dead_letters, records)
    return [f"{partition}/{offset}" for partition, offset in places]


def events(settings: Settings) -> list[Read]:
    return read_topic(settings.kafka_bootstrap_servers, settings.topics.events)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_list_is_newest_first_with_counts_and_shows_no_secret(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    old, new, bad = write(
        kafka_settings, letter("a1", hours_ago=5), letter("b1", hours_ago=1), letter("a2", Reason.CORRUPT_AUDIO)
    )

    assert earwitness("dead-letters", "list") == 0

    lines = earwitness.out.splitlines()
    assert lines[0].split() == ["id", "when", "reason", "tenant", "event", "id", "detail", "address"]
    assert [line.split()[0] for line in lines[1:4]] == [bad, new, old]
    assert "https://media.example/a1.wav" in lines[3]
    assert "secret" not in earwitness.out
    assert lines[-1] == "3 dead letters: 2 not_found, 1 corrupt_audio"


def test_a_list_is_narrowed_by_filters_and_cut_by_a_limit(earwitness: Earwitness, kafka_settings: Settings) -> None:
    write(
        kafka_settings,
        letter("a1", hours_ago=50),
        letter("a2", hours_ago=3),
        letter("b1", Reason.TOO_LONG, hours_ago=2),
        letter("b2", Reason.EMPTY, hours_ago=1),
    )

    def listed(*arguments: str) -> list[str]:
        assert earwitness("dead-letters", "list", "--json", *arguments) == 0
        return [json.loads(line)["event_id"] for line in earwitness.out.splitlines()]

    assert listed() == ["b2", "b1", "a2", "a1"]
    assert listed("--reason", "too_long", "--reason", "empty") == ["b2", "b1"]
    assert listed("--tenant", "acme") == ["a2", "a1"]
    assert listed("--since", "1d", "--until", "90m") == ["b1", "a2"]
    assert listed("--event-id", "a1") == ["a1"]
    assert listed("--limit", "2") == ["b2", "b1"]
    assert earwitness("dead-letters", "list", "--limit", "1") == 0
    assert "; 3 older ones are not shown (--limit)" in earwitness.out
    assert earwitness("dead-letters", "list", "--tenant", "nobody") == 0
    assert earwitness.out == "no dead letters\n"


def test_a_letter_is_shown_with_what_to_do_and_what_to_say_next(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    [id_] = write(kafka_settings, letter("a1"))

    assert earwitness("dead-letters", "show", id_) == 0

    for said in (
        f"dead letter {id_}",
        "reason     not_found",
        "nothing is there; put it there",
        "(60 min ago)",
        "attempts   2",
        "origin     audio.events/1/12, published 2023-11-14 22:13:20Z",
        "traceparent: 00-aa-bb-01",
        '"event_id": "a1"',
        f"earwitness dead-letters replay {id_}",
    ):
        assert said in earwitness.out
    assert earwitness("dead-letters", "show", "3/99") == 1
    assert "there is no dead letter 3/99" in earwitness.err


def test_what_is_unreadable_is_shown_as_it_is_and_can_be_discarded(
    earwitness: Earwitness, kafka_settings: Settings
) -> None:
    broken = letter("a1").model_copy(update={"payload_base64": b64encode(b"\x00\xff\x1b[31m").decode()})
    strange, bad = write(kafka_settings, b"what is this \x1b[31m?", broken)

    assert earwitness("dead-letters", "show", strange) == 0
    assert "record     what is this \\x1b[31m?" in earwitness.out
    assert earwitness("dead-letters", "show", bad) == 0
    assert "event      00 ff 1b 5b 33 31 6d" in earwitness.out
    assert earwitness("dead-letters", "replay", strange, "--yes") == 1
    assert f"{strange} is left alone" in earwitness.err
    assert earwitness("dead-letters", "discard", "--reason", "unreadable", "--yes") == 0
    assert earwitness.out == f"discarded  {strange}\n"


def test_a_replay_says_what_it_will_do_asks_does_it_and_does_it_only_once(
    earwitness: Earwitness, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(kafka_settings, letter("a1"), letter("a2"))

    answer(monkeypatch, "n\n")
    assert earwitness("dead-letters", "replay", first) == 1
    assert "1 dead letter (1 not_found): their events are published again to" in earwitness.err
    assert events(kafka_settings) == []

    answer(monkeypatch, "y\n")
    assert earwitness("dead-letters", "replay", first) == 0
    assert earwitness.out == f"replayed  {first}  (replay 1)\n"
    assert earwitness("dead-letters", "replay", first, second, "--yes") == 0
    assert f"{first} is handled already: replayed 20" in earwitness.err
    assert earwitness.err.endswith("1 replayed, 1 handled already\n")

    published = events(kafka_settings)
    assert sorted((read.key, read.json["event_id"]) for read in published) == [("a1", "a1"), ("a2", "a2")]
    assert {(read.header(Header.TRACEPARENT), read.header(Header.REPLAY)) for read in published} == {
        (b"00-aa-bb-01", b"1")
    }
    assert earwitness("dead-letters", "list") == 0
    assert earwitness.out == "no dead letters\n"
    assert earwitness("dead-letters", "list", "--all") == 0
    assert earwitness.out.count("replayed 20") == 2


def test_a_replay_by_filters_takes_the_oldest_first(earwitness: Earwitness, kafka_settings: Settings) -> None:
    new, old, other = write(
        kafka_settings, letter("a1", hours_ago=1), letter("a2", hours_ago=9), letter("b1", Reason.EMPTY)
    )

    assert earwitness("dead-letters", "replay", "--reason", "not_found", "--limit", "1", "--yes") == 0
    assert earwitness.out == f"replayed  {old}  (replay 1)\n"
    assert earwitness("dead-letters", "replay", "--all-matching", "--yes") == 0
    assert earwitness.out == f"replayed  {new}  (replay 1)\nreplayed  {other}  (replay 1)\n"
    assert earwitness("dead-letters", "replay", "--all-matching", "--yes") == 0
    assert (earwitness.out, earwitness.err) == ("", "0 replayed\n")


def test_what_was_discarded_is_not_replayed_and_that_is_a_failure(
    earwitness: Earwitness, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    [id_] = write(kafka_settings, letter("a1"))

    answer(monkeypatch, "y\n")
    assert earwitness("dead-letters", "discard", id_) == 0
    assert "they are marked as handled, nothing is published" in earwitness.err
    assert earwitness("dead-letters", "replay", id_, "--yes") == 1
    assert f"{id_} is handled already: discarded" in earwitness.err
    assert "earwitness: 0 replayed, 1 not replayed" in earwitness.err
    assert events(kafka_settings) == []


def test_an_event_past_its_deadline_is_warned_of_and_a_fresh_replay_begins_it_anew(
    earwitness: Earwitness, kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = letter("a1", Reason.DEADLINE_EXCEEDED, published_at="2026-01-01T00:00:00Z", deadline_seconds=60)
    [id_] = write(kafka_settings, late)

    answer(monkeypatch, "n\n")
    assert earwitness("dead-letters", "replay", id_) == 1
    assert f"{id_} will fail again: its deadline was 2026-01-01 00:01:00Z; --fresh begins it anew" in earwitness.err
    assert earwitness("dead-letters", "replay", id_, "--fresh", "--yes") == 0
    assert f"{id_} its bytes will differ: published_at becomes now" in earwitness.err

    [published] = events(kafka_settings)
    assert published.json["published_at"] > "2026-01-01T00:00:00Z"
    assert published.json["deadline_seconds"] == 60


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("discard",),
        ("replay", "3-17"),
        ("replay", "3/17", "--reason", "empty"),
        ("discard", "3/17", "--all-matching"),
        ("list", "--reason", "nonsense"),
        ("list", "--since", "yesterday"),
        ("list", "--limit", "0"),
        ("show",),
        ("show", "x"),
    ],
)
def test_wrong_usage_ends_with_2(earwitness: Earwitness, arguments: tuple[str, ...]) -> None:
    assert earwitness("dead-letters", *arguments) == 2


def test_without_its_topic_it_says_how_to_make_it(earwitness: Earwitness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARWITNESS_TOPIC_PREFIX", "nobody-made-these")
    assert earwitness("dead-letters", "list") == 1
    assert "run `earwitness topics create`" in earwitness.err
