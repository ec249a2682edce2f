"""Dead letters are named, chosen and published again as the reviewer means it."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

from consumer.core.model import Record
from consumer.core.parking import PARKED_HEADERS
from consumer.core.review import (
    UNREADABLE,
    Action,
    Filters,
    Letter,
    LetterId,
    Mark,
    NotReplayableError,
    Row,
    known_reasons,
    replay_of,
)
from consumer.core.shown import parse_moment, preview, shown_address, visible
from schemas.codec import encode
from schemas.codes import Header, Reason
from schemas.models import DeadLetter, Origin

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMIT_BYTES = 10_000
EVENT = b'{"event_id": "e", "uri": "https://user:pw@host/a.wav?sig=secret"}'


def letter(
    payload: bytes | None = EVENT,
    *,
    headers: tuple[tuple[str, bytes], ...] = (),
    key: bytes | None = b"e",
    hours_ago: float = 1.0,
    **fields: object,
) -> Letter:
    origin = Origin(
        topic="audio.events",
        partition=1,
        offset=2,
        timestamp_ms=3,
        key_base64=None if key is None else b64encode(key).decode(),
        headers=[(name, b64encode(value).decode()) for name, value in headers],
    )
    content = DeadLetter(
        event_id="e",
        tenant="acme",
        reason=Reason.NOT_FOUND,
        detail="not there",
        attempts=1,
        origin=origin,
        payload_base64=None if payload is None else b64encode(payload).decode(),
        failed_at=NOW - timedelta(hours=hours_ago),
    ).model_copy(update=fields)
    return Letter.of(Record("audio.dead-letters", 3, 17, 1_000, b"e", encode(content)))


FIRST = b"audio.events/1/2"


def replayed(given: Letter, *, fresh: bool = False) -> tuple[bytes, bytes | None, dict[str, bytes]]:
    again = replay_of(given, fresh=fresh, now=NOW, limit_bytes=LIMIT_BYTES)
    return again.value, again.key, dict(again.headers)


def test_a_letter_is_named_by_its_partition_and_offset() -> None:
    assert str(letter().id) == "3/17"
    assert LetterId.parse("3/17") == LetterId(3, 17)


@pytest.mark.parametrize("text", ["", "3", "3/", "/17", "3/x", "-1/2", "3/17/1", "3/17 ", "٣/1", "1/" + "9" * 19])
def test_anything_else_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="partition/offset"):
        LetterId.parse(text)


def test_a_replay_is_the_original_record_with_its_number() -> None:
    given = letter(headers=((Header.TRACEPARENT, b"00-ab-cd-01"), ("mine", b"\xff")))

    assert replayed(given) == (
        EVENT,
        b"e",
        {Header.TRACEPARENT: b"00-ab-cd-01", "mine": b"\xff", Header.REPLAY: b"1", Header.FIRST: FIRST},
    )


def test_a_replay_has_the_present_as_its_time_and_goes_where_its_key_belongs() -> None:
    write = replay_of(letter(), fresh=False, now=NOW, limit_bytes=LIMIT_BYTES).write("audio.events")
    assert (write.topic, write.timestamp_ms, write.partition) == ("audio.events", None, None)


def test_what_moving_and_parking_added_is_taken_off() -> None:
    added = (Header.MOVES, Header.ORIGIN, Header.LEFT_AT, Header.FETCH_SECONDS, *PARKED_HEADERS)
    moved = letter(headers=(*((name, b"1") for name in added), ("mine", b"1")), key=b"ab" * 32)
    assert replayed(moved) == (EVENT, b"ab" * 32, {"mine": b"1", Header.REPLAY: b"1", Header.FIRST: FIRST})


@pytest.mark.parametrize(
    ("before", "after"), [(b"1", b"2"), (b"41", b"42"), (b"", b"1"), (b"x", b"1"), (b"9" * 9, b"1")]
)
def test_a_replay_that_died_again_is_counted_on(before: bytes, after: bytes) -> None:
    assert replayed(letter(headers=((Header.REPLAY, before),)))[2] == {Header.REPLAY: after, Header.FIRST: FIRST}


def test_a_replay_of_a_replay_still_names_the_first_attempt() -> None:
    again = letter(headers=((Header.REPLAY, b"1"), (Header.FIRST, b"audio.events/0/3")))
    assert replayed(again)[2] == {Header.REPLAY: b"2", Header.FIRST: b"audio.events/0/3"}
    damaged = letter(headers=((Header.REPLAY, b"1"), (Header.FIRST, b"\xff")))
    assert replayed(damaged)[2][Header.FIRST] == FIRST


def test_a_record_without_a_key_is_replayed_without_one() -> None:
    assert replayed(letter(key=None))[1] is None


def test_bytes_that_are_no_event_are_replayed_as_they_are() -> None:
    assert replayed(letter(b"\x00\xff"), fresh=True)[0] == b"\x00\xff"


def test_a_letter_without_its_record_says_where_that_was() -> None:
    with pytest.raises(NotReplayableError, match=r"audio\.events/1/2"):
        replayed(letter(None))


def test_a_record_that_would_not_fit_its_topic_is_refused_before_it_is_sent() -> None:
    with pytest.raises(NotReplayableError, match="max_event_bytes"):
        replayed(letter(b"x" * LIMIT_BYTES))


def test_a_record_that_is_no_dead_letter_is_listed_shown_and_not_replayed() -> None:
    strange = Letter.of(Record("audio.dead-letters", 0, 1, 2_000, None, b"{}"))

    assert Row.of(strange, None).reason == UNREADABLE
    assert Filters().match(strange)
    assert Filters(reasons=frozenset({UNREADABLE})).match(strange)
    assert not Filters(tenant="acme").match(strange)
    with pytest.raises(NotReplayableError, match="discard"):
        replayed(strange)


def event(**fields: object) -> bytes:
    return json.dumps({"event_id": "e", "uri": "file:///a", **fields}).encode()


@pytest.mark.parametrize(
    ("payload", "expired"),
    [
        (event(published_at="2026-03-01T10:00:00Z", deadline_seconds=60), True),
        (event(published_at="2026-03-01T11:59:30Z", deadline_seconds=60), False),
        (event(published_at="2026-03-01T10:00:00Z"), False),
        (event(deadline_seconds=60), False),
        (event(published_at="9999-12-31T23:00:00Z", deadline_seconds=1e9), False),
        (b"no json", False),
    ],
)
def test_an_event_whose_deadline_has_passed_is_foretold_to_fail_again(payload: bytes, expired: bool) -> None:
    again = replay_of(letter(payload), fresh=False, now=NOW, limit_bytes=LIMIT_BYTES)
    assert (again.value, again.expired is not None) == (payload, expired)


def test_a_fresh_replay_begins_the_deadline_anew_and_changes_nothing_else() -> None:
    payload = event(published_at="2026-03-01T10:00:00Z", deadline_seconds=60, metadata={"ü": "\ud83d"}, other=[1.5])

    again = replay_of(letter(payload), fresh=True, now=NOW, limit_bytes=LIMIT_BYTES)

    assert json.loads(again.value) == {**json.loads(payload), "published_at": "2026-03-01T12:00:00Z"}
    assert (again.freshened, again.expired) == (True, None)


def test_an_event_that_does_not_say_when_it_was_published_stays_as_it_is_also_when_fresh() -> None:
    again = replay_of(letter(event(deadline_seconds=60)), fresh=True, now=NOW, limit_bytes=LIMIT_BYTES)
    assert (again.value, again.freshened) == (event(deadline_seconds=60), False)


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (Filters(), True),
        (Filters(reasons=frozenset({"not_found", "corrupt_audio"})), True),
        (Filters(reasons=frozenset({"corrupt_audio"})), False),
        (Filters(tenant="acme"), True),
        (Filters(tenant="other"), False),
        (Filters(event_id="e"), True),
        (Filters(event_id="f"), False),
        (Filters(since=NOW - timedelta(hours=1)), True),
        (Filters(since=NOW - timedelta(minutes=59)), False),
        (Filters(until=NOW - timedelta(hours=1)), False),
        (Filters(until=NOW), True),
        (Filters(tenant="acme", event_id="f"), False),
    ],
)
def test_every_filter_must_fit(filters: Filters, fits: bool) -> None:
    assert filters.match(letter()) is fits


def test_a_reason_that_does_not_exist_is_answered_with_those_that_do() -> None:
    assert known_reasons(["not_found"]) == {"not_found"}
    with pytest.raises(ValueError, match=r"nonsense.*corrupt_audio"):
        known_reasons(["nonsense"])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_time_is_said_as_a_moment_or_as_how_long_ago(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2", "h", "-2h", "2026-01-31T12:00:00", "2026-01-31", "999999w"])
def test_a_time_that_could_mean_anything_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"zone|neither|long ago|say "):
        parse_moment(text, NOW)


def test_a_mark_covers_the_letter_that_was_handled_and_no_later_one_at_the_same_place() -> None:
    mark = Mark(action=Action.DISCARDED, at=NOW, letter_timestamp_ms=1_000, run="r")
    later = Letter.of(Record("audio.dead-letters", 3, 17, 2_000, None, letter().record.value))

    assert mark.covers(letter())
    assert not mark.covers(later)


def test_secrets_of_an_address_are_not_listed() -> None:
    assert Row.of(letter(), None).as_dict()["address"] == "https://host/a.wav"
    assert shown_address("https://[broken") == "(an address that cannot be read)"


def test_a_row_for_programs_says_everything_a_list_says() -> None:
    mark = Mark(action=Action.REPLAYED, at=NOW, letter_timestamp_ms=1_000, run="r", replay=1)
    assert json.loads(json.dumps(Row.of(letter(headers=((Header.REPLAY, b"3"),)), mark).as_dict())) == {
        "id": "3/17",
        "failed_at": "2026-03-01T11:00:00Z",
        "reason": "not_found",
        "tenant": "acme",
        "event_id": "e",
        "detail": "not there",
        "address": "https://host/a.wav",
        "attempts": 1,
        "replays": 3,
        "handled": {"action": "replayed", "at": "2026-03-01T12:00:00Z", "replay": 1},
    }


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert preview(b"plain \x07") == "plain \\x07"
    assert preview(b"\x00\xff\x10") == "00 ff 10"
    assert preview("ü".encode() * 600, 3) == "ü … (1200 bytes in all)"
