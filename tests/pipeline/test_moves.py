"""Events find the lane that owns their digest, and stay the events that they were."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from schemas.codes import Header, Reason, WarningCode
from schemas.topics import digest_partition
from tests.audio.web import answer, web_server
from tests.support.audio_files import speech, write_audio
from tests.support.kafka import PARTITIONS, Broker, Read, Written
from tests.support.scenario import (
    Clip,
    Outcomes,
    clip_in_partition,
    event,
    fresh_service,
    outcomes,
    publish,
    read,
    settings_for,
    until_settled,
)

pytestmark = pytest.mark.kafka

AN_HOUR_AGO_MS = int(time.time() * 1000) - 3_600_000


@dataclass
class Run:
    """What was written where, and what came out."""

    topic: str = ""
    clips: dict[str, Clip] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    events: list[Read] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    found: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))

    def records_of(self, event_id: str) -> list[Read]:
        """Every record of an event on the input topic, the first one first."""
        mine = [record for record in self.events if record.json["event_id"] == event_id]
        return sorted(mine, key=lambda record: int(record.header(Header.MOVES) or 0))

    def origin(self, event_id: str) -> bytes:
        partition, offset = self.places[event_id]
        return f"{self.topic}/{partition}/{offset}".encode()


def _records(run: Run, folder: Path, url: dict[str, str]) -> dict[str, Written]:
    clips = run.clips
    half = folder / "half.flac"
    whole = write_audio(folder / "whole.flac", speech(), 16_000).read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    corrupt_at = digest_partition(hashlib.sha256(half.read_bytes()).hexdigest(), PARTITIONS)
    moved_once = [(Header.MOVES, b"1"), (Header.ORIGIN, f"{run.topic}/3/777".encode())]
    before = clips["before"].digest.encode()
    return {
        "wanders": Written(
            event("wanders", clips["wanders"].uri),
            key=b"wanders",
            partition=0,
            headers=[("x-mine", b"1")],
            timestamp_ms=AN_HOUR_AGO_MS,
        ),
        "stays": Written(event("stays", clips["stays"].uri), key=b"stays", partition=1),
        "claims": Written(event("claims", clips["wanders"].uri, sha256=clips["wanders"].digest.upper()), partition=3),
        "moved-twice": Written(
            event("moved-twice", clips["away"].uri),
            key=clips["away"].digest.encode(),
            partition=0,
            headers=[(Header.MOVES, b"2"), (Header.ORIGIN, f"{run.topic}/3/778".encode())],
        ),
        "corrupt": Written(event("corrupt", half.as_uri()), key=b"corrupt", partition=(corrupt_at + 1) % PARTITIONS),
        "fetched-once": Written(event("fetched-once", url["/once"]), partition=0),
        "changed-here": Written(
            event("changed-here", clips["here"].uri), before, moved_once, clips["before"].partition
        ),
        "changed-elsewhere": Written(
            event("changed-elsewhere", clips["elsewhere"].uri), before, moved_once, clips["before"].partition
        ),
    }


async def _run(kafka: Broker, folder: Path) -> Run:
    run = Run()
    run.clips = {
        "wanders": clip_in_partition(folder, 2),
        "stays": clip_in_partition(folder, 1),
        "away": clip_in_partition(folder, 3),
        "once": clip_in_partition(folder, 2, start=100),
        "before": clip_in_partition(folder, 1, start=200),
        "here": clip_in_partition(folder, 1, start=300),
        "elsewhere": clip_in_partition(folder, 2, start=400),
    }
    async with web_server() as web:
        once = web.add("/once", answer(200, run.clips["once"].path.read_bytes()))
        allow = [f"{web.origin}/", folder.as_uri() + "/"]
        settings = settings_for(kafka.bootstrap_servers, folder, fetch_allow=allow)
        run.topic = settings.topics.events
        records = _records(run, folder, {"/once": once})
        async with fresh_service(settings) as service:
            places = await publish(settings, *records.values())
            await until_settled(settings, len(records), service)
        run.asked = web.asked
    run.places = dict(zip(records, places, strict=True))
    run.events = await read(settings, settings.topics.events)
    run.found = await asyncio.to_thread(outcomes, settings)
    return run


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One instance, events in all the wrong places."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("moves")))


def test_an_event_without_digest_lands_under_its_digest(run: Run) -> None:
    first, moved = run.records_of("wanders")
    assert (moved.key, moved.partition) == (run.clips["wanders"].digest, 2)
    assert moved.value == first.value
    assert (moved.header(Header.MOVES), moved.header(Header.ORIGIN)) == (b"1", run.origin("wanders"))
    assert moved.header("x-mine") == b"1"


def test_a_moved_event_keeps_the_time_of_its_first_record(run: Run) -> None:
    assert [record.timestamp_ms for record in run.records_of("wanders")] == [AN_HOUR_AGO_MS] * 2
    published_at = datetime.fromisoformat(run.found.transcript("wanders").json["published_at"])
    assert round(published_at.timestamp() * 1000) == AN_HOUR_AGO_MS
    metric = run.found.metric("wanders")
    age = datetime.fromisoformat(metric["completed_at"]) - published_at
    assert metric["latency_seconds"]["total"] == pytest.approx(age.total_seconds(), abs=0.01)
    assert age.total_seconds() > 3600


def test_an_event_in_its_own_partition_is_not_moved(run: Run) -> None:
    assert len(run.records_of("stays")) == 1
    assert run.found.transcript("stays").json["text"] == run.clips["stays"].text


def test_a_claimed_digest_in_capitals_leads_to_the_same_lane(run: Run) -> None:
    moved = run.records_of("claims")[-1]
    assert (moved.key, moved.partition) == (run.clips["wanders"].digest, 2)
    assert run.found.recognitions == len({record.json["sha256"] for record in run.found.transcripts})


def test_after_two_moves_an_event_is_served_where_it_is(run: Run) -> None:
    assert len(run.records_of("moved-twice")) == 1
    transcript = run.found.transcript("moved-twice").json
    assert (transcript["text"], transcript["warnings"]) == (run.clips["away"].text, [WarningCode.SERVED_AWAY])
    digest = run.clips["away"].digest
    assert [entry.partition for key, entry in run.found.entries.items() if digest in key] == [3]


def test_moving_has_no_metric_of_its_own(run: Run) -> None:
    assert sorted(metric.key or "" for metric in run.found.metrics) == sorted(run.places)


def test_a_dead_letter_of_a_moved_event_names_its_first_record(run: Run) -> None:
    assert len(run.records_of("corrupt")) == 2
    letter = run.found.dead_letter("corrupt").json
    assert letter["reason"] == Reason.CORRUPT_AUDIO
    assert (letter["origin"]["topic"], letter["origin"]["partition"], letter["origin"]["offset"]) == (
        run.topic,
        *run.places["corrupt"],
    )


def test_an_instance_that_owns_both_lanes_fetches_a_moved_recording_once(run: Run) -> None:
    assert len(run.records_of("fetched-once")) == 2
    assert run.found.transcript("fetched-once").json["text"] == run.clips["once"].text
    assert len(run.asked) == 1


def test_a_recording_that_changed_after_its_move_is_heard_as_it_is_now(run: Run) -> None:
    here = run.found.transcript("changed-here").json
    assert (here["sha256"], here["text"]) == (run.clips["here"].digest, run.clips["here"].text)
    assert here["warnings"] == [WarningCode.DIGEST_CHANGED]


def test_a_recording_that_changed_follows_its_new_digest(run: Run) -> None:
    moved = run.records_of("changed-elsewhere")[-1]
    assert (moved.key, moved.partition) == (run.clips["elsewhere"].digest, 2)
    assert (moved.header(Header.MOVES), moved.header(Header.ORIGIN)) == (b"2", f"{run.topic}/3/777".encode())
    transcript = run.found.transcript("changed-elsewhere").json
    assert (transcript["sha256"], transcript["text"]) == (
        run.clips["elsewhere"].digest,
        run.clips["elsewhere"].text,
    )
