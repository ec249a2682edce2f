"""What is published for an outcome, to the byte limit."""

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.core import outcomes
from consumer.core.event import Notes
from consumer.core.model import Record
from consumer.core.outcomes import DeadLettered, DedupWrite, Moment, Moved, Parked, Transcribed, Write
from schemas.codec import encode
from schemas.codes import Header, Hold, Reason, Route, WarningCode
from schemas.models import Attempt, AudioEvent, EngineRef, Model, Recognised, Segment, Transcript, Word
from schemas.topics import Topics

TOPICS = Topics("audio")
MOMENT = Moment(datetime(2026, 1, 1, 0, 1, tzinfo=UTC), 0.25)
DIGEST = "cd" * 32
LIMIT = 1_000_000


def _notes(**changes: Any) -> Notes:
    fields = {"value": b'{"event_id": "e"}', "key": b"k", "headers": (("x", b"1"), ("x", b"\xff"))}
    record = Record("audio.events", 2, 40, 1_767_225_600_000, **{**fields, **changes})
    event = AudioEvent(event_id="e", uri="file:///a", tenant="t", metadata={"a": "b"}, critical=True)
    return Notes(record, event, DIGEST, traceparent={"traceparent": "00-aa-bb-01"})


def _attempt(cost_usd: float) -> Attempt:
    return Attempt(engine="x", model="m", outcome="ok", audio_seconds=2.0, cost_usd=cost_usd, seconds=1.0)


def _recognised(words: int = 0) -> Recognised:
    made = [Word(start_seconds=0.0, end_seconds=1.0, text=f"word-{number}") for number in range(words)]
    return Recognised(
        text="hello", engine=EngineRef(name="x", model="m"), audio_seconds=2.0, words=made or None, warnings=["w"]
    )


def _transcribed(**changes: Any) -> Transcribed:
    fields = {"route": Route.LOCAL, "cached": False, "cost_usd": 0.5, "attempts": (_attempt(0.5),)}
    return Transcribed(_notes(), **{"recognised": _recognised(), **fields, **changes})


def _json(write: Write) -> Any:
    assert write.value is not None
    return json.loads(write.value)


def test_a_transcript_comes_with_its_metric_and_its_dedup_entry() -> None:
    writes = _transcribed(dedup=DedupWrite("t/d/f", 3)).writes(TOPICS, MOMENT, LIMIT)
    assert [(write.topic, write.key, write.partition) for write in writes] == [
        ("audio.transcripts", b"e", None),
        ("audio.metrics", b"e", None),
        ("audio.dedup", b"t/d/f", 3),
    ]


def test_a_cached_transcript_writes_no_entry() -> None:
    outcome = _transcribed(cached=True, route=Route.CACHE, cost_usd=0.0, attempts=())
    assert [write.topic for write in outcome.writes(TOPICS, MOMENT, LIMIT)] == ["audio.transcripts", "audio.metrics"]


def test_transcript_and_metric_tell_the_same_story() -> None:
    transcript, metric = map(_json, _transcribed(queue_seconds=0.1, infer_seconds=0.2).writes(TOPICS, MOMENT, LIMIT))
    assert (transcript["sha256"], transcript["metadata"], transcript["tenant"]) == (DIGEST, {"a": "b"}, "t")
    assert transcript["cost_usd"] == metric["cost_usd"] == 0.5
    assert transcript["published_at"] == "2026-01-01T00:00:00Z"
    assert transcript["completed_at"] == metric["completed_at"] == "2026-01-01T00:01:00Z"
    expected = {"total": 60.0, "queue": 0.1, "infer": 0.2, "commit": 0.25}
    assert {name: value for name, value in metric["latency_seconds"].items() if value is not None} == expected
    assert (metric["critical"], metric["route"], len(metric["attempts"])) == (True, "local", 1)


def test_all_records_but_the_dedup_entry_carry_the_trace_on() -> None:
    writes = _transcribed(dedup=DedupWrite("t/d/f", 3)).writes(TOPICS, MOMENT, LIMIT)
    assert [write.headers for write in writes] == [[("traceparent", b"00-aa-bb-01")]] * 2 + [None]


def test_an_events_own_warnings_are_not_remembered_with_the_recording() -> None:
    outcome = _transcribed(dedup=DedupWrite("t/d/f", 3))
    outcome.notes.warnings.append(WarningCode.SERVED_AWAY)
    transcript, _, entry = map(_json, outcome.writes(TOPICS, MOMENT, LIMIT))
    assert (transcript["warnings"], entry["warnings"]) == (["w", "served_away"], ["w"])


def test_a_transcript_that_is_too_large_goes_without_words_and_says_so() -> None:
    outcome = Transcribed(_notes(), _recognised(words=500), Route.LOCAL, cached=False, dedup=DedupWrite("t/d/f", 3))
    writes = outcome.writes(TOPICS, MOMENT, 5_000)
    transcript, _, entry = map(_json, writes)
    assert all(len(write.value or b"") <= 5_000 for write in writes)
    for value in (transcript, entry):
        assert (value["words"], value["text"]) == (None, "hello")
        assert value["warnings"] == ["w", WarningCode.WORDS_DROPPED]


def test_words_that_cannot_fit_are_not_written_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[Model]()

    def encoding(model: Model) -> bytes:
        tried.append(model)
        return encode(model)

    monkeypatch.setattr(outcomes, "encode", encoding)
    _transcribed(recognised=_recognised(words=500)).writes(TOPICS, MOMENT, 500 * 66 - 1)
    assert [model.words for model in tried if isinstance(model, Transcript)] == [None]


def test_a_transcript_that_is_still_too_large_goes_without_segments_and_then_without_metadata() -> None:
    segments = [Segment(start_seconds=0.0, end_seconds=1.0, text="x" * 100)] * 100
    recognised = _recognised(words=100).model_copy(update={"segments": segments})
    outcome = Transcribed(_notes(), recognised, Route.LOCAL, cached=False)
    transcript = _json(outcome.writes(TOPICS, MOMENT, 3_000)[0])
    assert (transcript["words"], transcript["segments"], transcript["metadata"]) == (None, [], {"a": "b"})
    assert transcript["warnings"] == ["w", "words_dropped", "segments_dropped"]
    assert outcome.notes.event is not None
    outcome.notes.event = outcome.notes.event.model_copy(update={"metadata": {"a": "b" * 5_000}})
    transcript = _json(outcome.writes(TOPICS, MOMENT, 3_000)[0])
    assert (transcript["text"], transcript["metadata"], transcript["warnings"][-1]) == ("hello", {}, "metadata_dropped")


def test_a_metric_of_endless_tries_keeps_the_last_ones_and_the_whole_cost() -> None:
    outcome = _transcribed(attempts=tuple(_attempt(0.25) for _ in range(100_000)), cost_usd=25_000.0)
    write = outcome.writes(TOPICS, MOMENT, LIMIT)[1]
    assert len(write.value or b"") < LIMIT
    assert _json(write)["cost_usd"] == 25_000.0


def _dead(notes: Notes, detail: str = "why") -> DeadLettered:
    return DeadLettered(notes, Reason.NOT_FOUND, detail, "e", "t")


def test_a_dead_letter_can_be_published_again_from_what_it_holds() -> None:
    letter, metric = map(_json, _dead(_notes()).writes(TOPICS, MOMENT, LIMIT))
    assert b64decode(letter["payload_base64"]) == b'{"event_id": "e"}'
    origin = letter["origin"]
    assert (origin["topic"], origin["partition"], origin["offset"]) == ("audio.events", 2, 40)
    assert (origin["timestamp_ms"], b64decode(origin["key_base64"])) == (1_767_225_600_000, b"k")
    assert [(name, b64decode(value)) for name, value in origin["headers"]] == [("x", b"1"), ("x", b"\xff")]
    assert (metric["outcome"], metric["reason"], letter["reason"]) == ("dead_lettered", "not_found", "not_found")


def test_a_dead_letter_of_a_tombstone_has_no_payload_and_no_key() -> None:
    letter = _json(
        DeadLettered(_notes(value=None, key=None), Reason.INVALID_JSON, "x", None, None).writes(TOPICS, MOMENT, LIMIT)[
            0
        ]
    )
    assert (letter["payload_base64"], letter["origin"]["key_base64"]) == (None, None)


def test_a_dead_letter_of_a_moved_event_names_the_first_record() -> None:
    headers = ((Header.MOVES, b"1"), (Header.ORIGIN, b"audio.events/0/9"))
    letter = _json(_dead(_notes(headers=headers)).writes(TOPICS, MOMENT, LIMIT)[0])
    assert (letter["origin"]["partition"], letter["origin"]["offset"]) == (0, 9)


@pytest.mark.parametrize("origin", [b"\xff/1/2", b"t/1/" + b"9" * 19, b"t/1/" + b"9" * 5000, b"\xff"])
def test_no_origin_header_keeps_a_dead_letter_from_being_written(origin: bytes) -> None:
    headers = ((Header.MOVES, b"1"), (Header.ORIGIN, origin))
    assert _json(_dead(_notes(headers=headers)).writes(TOPICS, MOMENT, LIMIT)[0])["reason"] == "not_found"


def test_what_failed_tries_cost_is_billed_with_the_dead_letter() -> None:
    notes = _notes()
    notes.attempts = [_attempt(0.25), _attempt(0.5)]
    letter, metric = map(_json, _dead(notes).writes(TOPICS, MOMENT, LIMIT))
    assert (letter["attempts"], metric["cost_usd"]) == (2, 0.75)


def test_a_record_too_large_for_its_dead_letter_stays_at_its_origin() -> None:
    big = _notes(value=bytes(900_000), headers=(("x", bytes(300_000)),))
    write = _dead(big).writes(TOPICS, MOMENT, LIMIT)[0]
    letter = _json(write)
    assert len(write.value or b"") <= LIMIT
    assert (letter["payload_base64"], letter["origin"]["headers"], letter["origin"]["offset"]) == (None, [], 40)
    assert "too large" in letter["detail"]


def test_a_record_with_a_huge_key_or_a_forged_origin_has_a_dead_letter_too() -> None:
    forged = ((Header.MOVES, b"1"), (Header.ORIGIN, b"t" * 2_000_000 + b"/0/1"))
    notes = _notes(headers=forged)
    notes.record = replace(notes.record, key=bytes(2_000_000))
    write = _dead(notes).writes(TOPICS, MOMENT, LIMIT)[0]
    assert len(write.value or b"") <= LIMIT
    assert (_json(write)["origin"]["topic"], _json(write)["origin"]["offset"]) == ("audio.events", 40)


def test_a_moved_event_is_the_same_record_under_its_digest() -> None:
    (write,) = Moved(_notes(), DIGEST, 1).writes(TOPICS, MOMENT, LIMIT)
    assert (write.topic, write.key, write.partition) == ("audio.events", DIGEST.encode(), 1)
    assert (write.value, write.timestamp_ms) == (b'{"event_id": "e"}', 1_767_225_600_000)
    assert write.headers == [("x", b"1"), ("x", b"\xff"), *_begun(), (Header.MOVES, b"1"), *_left(b"audio.events/2/40")]


def test_a_second_move_counts_on_and_keeps_the_first_origin() -> None:
    headers = ((Header.MOVES, b"1"), ("x", b"1"), (Header.ORIGIN, b"audio.events/0/9"), (Header.LEFT_AT, b"before"))
    (write,) = Moved(_notes(headers=headers), DIGEST, 1).writes(TOPICS, MOMENT, LIMIT)
    assert write.headers == [("x", b"1"), *_begun(), (Header.MOVES, b"2"), *_left(b"audio.events/0/9")]


@pytest.mark.parametrize(
    "outcome", [lambda notes: Moved(notes, DIGEST, 1), lambda notes: Parked(notes, Hold.OFF_PEAK, MOMENT.now)]
)
def test_an_event_that_goes_elsewhere_stays_in_its_trace_whoever_began_it(
    outcome: Callable[[Notes], Moved | Parked],
) -> None:
    sent = (Header.TRACEPARENT, b"00-" + b"ab" * 16 + b"-" + b"01" * 8 + b"-01")
    own = f"00-{'ab' * 16}-{'02' * 8}-01"

    def told(*headers: tuple[str, bytes]) -> list[bytes]:
        notes = _notes(headers=headers)
        notes.traceparent = {Header.TRACEPARENT: own}
        (write,) = outcome(notes).writes(TOPICS, MOMENT, LIMIT)
        return [value for name, value in write.headers or () if name == Header.TRACEPARENT]

    assert told(sent) == [sent[1]]
    assert told() == told((Header.TRACEPARENT, b"damaged")) == [own.encode()]


def _begun() -> list[tuple[str, bytes]]:
    return [(Header.TRACEPARENT, b"00-aa-bb-01")]


def _left(origin: bytes) -> list[tuple[str, bytes]]:
    return [(Header.ORIGIN, origin), (Header.LEFT_AT, b"2026-01-01T00:01:00+00:00")]
