"""Whatever is wrong with an event, it becomes one dead letter that says so, and its neighbours do not notice."""

import asyncio
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compose.kafka_probe import free_ports
from schemas.codes import Header, Reason
from tests.support.audio_files import SPEECH, speech, write_audio
from tests.support.kafka import Broker, Read, Written
from tests.support.scenario import Clip, Outcomes, event, make_clip, serve_these, settings_for

pytestmark = pytest.mark.kafka

REASONS = {
    "not-json": Reason.INVALID_JSON,
    "as-large-as-may-be": Reason.INVALID_JSON,
    "tombstone": Reason.INVALID_JSON,
    "not-an-object": Reason.INVALID_EVENT,
    "no-uri": Reason.INVALID_EVENT,
    "unknown-version": Reason.UNSUPPORTED_VERSION,
    "missing-file": Reason.NOT_FOUND,
    "no-bytes": Reason.EMPTY,
    "corrupt": Reason.CORRUPT_AUDIO,
    "text-file": Reason.UNSUPPORTED_FORMAT,
    "too-long": Reason.TOO_LONG,
    "too-large": Reason.TOO_LARGE,
    "wrong-digest": Reason.DIGEST_MISMATCH,
    "closed-port": Reason.FETCH_FAILED,
    "elsewhere": Reason.URI_NOT_ALLOWED,
    "late": Reason.DEADLINE_EXCEEDED,
    "directory": Reason.NOT_A_FILE,
    "impossible-time": Reason.INVALID_EVENT,
    "odd-address": Reason.URI_NOT_ALLOWED,
    "damaged-origin": Reason.NOT_FOUND,
}
REFUSED_WITH_ITS_DIGEST = {"corrupt", "text-file", "too-long", "wrong-digest"}
"""These may have been moved before they failed, and then carry their digest as key."""
NAMELESS = {"not-json", "as-large-as-may-be", "tombstone", "not-an-object"}
GOOD = 12


@dataclass(frozen=True)
class Run:
    """What was published, by the test's own name for it, and what came out."""

    written: dict[str, Written]
    places: dict[str, tuple[int, int]]
    found: Outcomes

    def letter_of(self, name: str) -> Any:
        """The one dead letter whose origin is that record."""
        return self._letter(name).json

    def _letter(self, name: str) -> Read:
        mine = [letter for letter in self.found.dead_letters if _origin(letter) == self.places[name]]
        assert len(mine) == 1, f"{name}: {len(mine)} dead letters"
        return mine[0]


def _origin(letter: Read) -> tuple[int, int]:
    origin = letter.json["origin"]
    return origin["partition"], origin["offset"]


def _bad_events(folder: Path, good: Clip, closed_port: int) -> dict[str, bytes | None]:
    (folder / "zero.wav").touch()
    write_audio(folder / "whole.flac", speech(), 16_000)
    whole = (folder / "whole.flac").read_bytes()
    (folder / "half.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("these are words, not sounds\n" * 100)
    long_one = make_clip(folder, 9001, seconds=11.0)
    (folder / "large.wav").write_bytes(b"RIFF" + bytes(600_000))
    (folder / "folder").mkdir()
    long_ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    return {
        "not-json": b"{nope",
        "as-large-as-may-be": b"{" * 1_048_000,
        "tombstone": None,
        "not-an-object": b'["event_id", "uri"]',
        "no-uri": json.dumps({"event_id": "no-uri"}).encode(),
        "unknown-version": event("unknown-version", good.uri, schema_version=2),
        "missing-file": event("missing-file", (folder / "missing.wav").as_uri()),
        "directory": event("directory", (folder / "folder").as_uri()),
        "no-bytes": event("no-bytes", (folder / "zero.wav").as_uri()),
        "corrupt": event("corrupt", (folder / "half.flac").as_uri()),
        "text-file": event("text-file", (folder / "notes.txt").as_uri()),
        "too-long": event("too-long", long_one.uri),
        "too-large": event("too-large", (folder / "large.wav").as_uri()),
        "wrong-digest": event("wrong-digest", good.uri, sha256="ab" * 32),
        "closed-port": event("closed-port", f"http://127.0.0.1:{closed_port}/a.wav"),
        "elsewhere": event("elsewhere", (SPEECH / "austen-0870.flac").as_uri()),
        "impossible-time": event("impossible-time", good.uri, published_at="9999-12-31T23:59:59-14:00"),
        "odd-address": event("odd-address", "file://[::1"),
        "damaged-origin": event("damaged-origin", (folder / "missing.wav").as_uri()),
        "late": event("late", good.uri, deadline_seconds=60, published_at=long_ago),
    }


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every kind of bad event with good ones in between, served by one instance."""
    folder = tmp_path_factory.mktemp("bad-input")
    (port,) = free_ports(1)
    good = [make_clip(folder, number) for number in range(GOOD)]
    bad = _bad_events(folder, good[0], port)
    written = {
        name: Written(value, key=f"key of {name}".encode(), headers=[("x-test", name.encode()), ("x-test", b"\xff")])
        for name, value in bad.items()
    }
    forged = [(Header.MOVES, b"1"), (Header.ORIGIN, b"t/1/" + b"9" * 5000)]
    written["damaged-origin"] = replace(written["damaged-origin"], headers=forged)
    written |= {
        f"good-{clip.digest}": Written(event(f"good-{n}", clip.uri, deadline_seconds=1e300))
        for n, clip in enumerate(good)
    }
    names = sorted(written, key=lambda name: name[::-1])  # good and bad ones mixed, the same way each time
    settings = settings_for(
        kafka.bootstrap_servers,
        folder,
        fetch_allow=[folder.as_uri() + "/", f"http://127.0.0.1:{port}/"],
        fetch_attempts=1,
        max_audio_seconds=10.0,
        max_audio_bytes=500_000,
    )
    records = [replace(written[name], partition=n % 4) for n, name in enumerate(names)]
    found = asyncio.run(serve_these(settings, *records))
    counts = [0, 0, 0, 0]
    places: dict[str, tuple[int, int]] = {}
    for number, name in enumerate(names):  # nothing else was written before them: offsets count from 0
        places[name] = (number % 4, counts[number % 4])
        counts[number % 4] += 1
    return Run(dict(zip(names, records, strict=True)), places, found)


@pytest.mark.parametrize("name", REASONS)
def test_a_bad_event_becomes_one_dead_letter_with_its_own_reason(run: Run, name: str) -> None:
    assert run.letter_of(name)["reason"] == REASONS[name]
    assert run.letter_of(name)["detail"]


@pytest.mark.parametrize("name", REASONS)
def test_a_dead_letter_carries_its_record_whole(run: Run, name: str) -> None:
    letter, record = run.letter_of(name), run.written[name]
    payload = letter["payload_base64"]
    assert (None if payload is None else b64decode(payload)) == record.value
    origin = letter["origin"]
    assert b64decode(origin["key_base64"]) == record.key or name in REFUSED_WITH_ITS_DIGEST
    ours = [[key, b64encode(value).decode()] for key, value in record.headers]
    assert origin["headers"][: len(ours)] == ours


def test_every_event_has_exactly_one_outcome_and_one_metric(run: Run) -> None:
    assert len(run.found.dead_letters) == len(REASONS)
    assert len(run.found.transcripts) == GOOD
    assert len(run.found.metrics) == len(REASONS) + GOOD
    assert len({record.key for record in run.found.transcripts}) == GOOD


@pytest.mark.parametrize("name", sorted(REASONS.keys() - NAMELESS))
def test_a_bad_event_that_could_be_read_has_one_metric_with_its_reason(run: Run, name: str) -> None:
    metric = run.found.metric(name)
    assert (metric["outcome"], metric["reason"], metric["cost_usd"]) == ("dead_lettered", REASONS[name], 0.0)
    assert run.found.dead_letter(name).json["event_id"] == name


def test_an_event_that_could_not_be_read_has_a_metric_without_an_id(run: Run) -> None:
    nameless = sorted(metric.json["reason"] for metric in run.found.metrics if metric.json["event_id"] is None)
    assert nameless == sorted(REASONS[name] for name in NAMELESS)


def test_no_dead_letter_of_the_neighbours_is_remembered_as_heard(run: Run) -> None:
    assert len(run.found.entries) == GOOD
