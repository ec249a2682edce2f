"""What an event's record says, whatever somebody wrote into it."""

import pytest

from consumer.core.event import Moves, Notes, dedup_key, fingerprint, known_digest, parse_origin
from consumer.core.model import Record
from schemas.codec import ContractError, decode_event
from schemas.codes import Header, Reason
from schemas.models import AudioEvent

DIGEST = "ab" * 32


def _record(*, key: bytes | None = None, timestamp_ms: int = 1_000, **headers: bytes) -> Record:
    names = {
        "moves": Header.MOVES,
        "origin": Header.ORIGIN,
        "left_at": Header.LEFT_AT,
        "replay": Header.REPLAY,
        "fetch": Header.FETCH_SECONDS,
    }
    return Record("t", 3, 7, timestamp_ms, key, b"", tuple((names[name], value) for name, value in headers.items()))


def _event(**fields: object) -> AudioEvent:
    return AudioEvent.model_validate({"event_id": "e", "uri": "file:///a", **fields})


def test_a_first_record_is_its_own_origin() -> None:
    assert Moves.of(_record()) == Moves(0, "t/3/7")


def test_a_moved_record_names_where_it_was_first() -> None:
    assert Moves.of(_record(moves=b"2", origin=b"a.b/0/12")) == Moves(2, "a.b/0/12")


@pytest.mark.parametrize(
    "origin",
    [
        b"",
        b"x",
        b"/1/2",
        b"t/one/2",
        b"t/1/-2",
        b"\xff\xfe",
        b"t/1/" + b"9" * 20,
        b"t/1/" + b"9" * 5000,
        "t/1/٣".encode(),
    ],
)
def test_a_damaged_origin_does_not_count(origin: bytes) -> None:
    assert Moves.of(_record(moves=b"1", origin=origin)) == Moves(1, "t/3/7")


def test_an_origin_in_odd_bytes_is_read_without_an_error() -> None:
    assert Moves.of(_record(moves=b"1", origin=b"\xff/1/2")).origin == "\ufffd/1/2"


def test_an_origin_without_moves_does_not_count() -> None:
    assert Moves.of(_record(origin=b"other/1/2")) == Moves(0, "t/3/7")


@pytest.mark.parametrize("moves", [b"", b"-1", b"many", b"1.5", b"9" * 5000, b"\xb2"])
def test_a_damaged_count_of_moves_is_none(moves: bytes) -> None:
    assert Moves.of(_record(moves=moves, origin=b"other/1/2")) == Moves(0, "t/3/7")


def test_a_moved_record_says_how_long_its_fetch_took_if_that_can_be() -> None:
    assert Moves.of(_record(moves=b"1", fetch=b"1.250000")).fetch_seconds == 1.25
    for damage in (b"", b"-1.0", b"1", b"inf", b"nan", b"9" * 5000 + b".0"):
        assert Moves.of(_record(moves=b"1", fetch=damage)).fetch_seconds is None
    assert Moves.of(_record(fetch=b"1.250000")).fetch_seconds is None


def test_an_origin_comes_apart_into_topic_partition_and_offset() -> None:
    assert parse_origin("a/b/3/44") == ("a/b", 3, 44)


def test_a_claimed_digest_is_known_in_lower_case() -> None:
    event = _event(sha256=DIGEST.upper())
    assert known_digest(_record(), event, Moves(0, "")) == DIGEST


def test_the_key_of_a_moved_event_is_the_digest_that_was_computed() -> None:
    assert known_digest(_record(key=DIGEST.encode()), _event(), Moves(1, "")) == DIGEST


def test_the_key_of_an_event_that_was_not_moved_is_nobodys_digest() -> None:
    assert known_digest(_record(key=DIGEST.encode()), _event(), Moves(0, "")) is None


@pytest.mark.parametrize("key", [None, b"e", DIGEST.upper().encode(), b"ab" * 31, b"zz" * 32])
def test_a_moved_event_with_another_key_is_hashed_again(key: bytes | None) -> None:
    assert known_digest(_record(key=key), _event(), Moves(1, "")) is None


def test_the_fingerprint_tells_every_part_and_its_place() -> None:
    ways = [("a", None), (None, "a"), ("a", ""), ("a", "b"), ("ab", None)]
    found = {fingerprint(*way) for way in ways}
    assert len(found) == len(ways) - 1  # nothing and the empty text are the same wish
    assert all(len(one) == 16 for one in found)


def test_the_dedup_key_is_scope_digest_fingerprint() -> None:
    assert dedup_key("tenant", DIGEST, "f0") == f"tenant/{DIGEST}/f0"


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**63 - 1])
def test_any_time_of_a_record_is_a_time_of_publishing(timestamp_ms: int) -> None:
    assert Notes(_record(timestamp_ms=timestamp_ms)).published_at.year in (1970, 9999)


def test_the_events_own_time_of_publishing_comes_first() -> None:
    notes = Notes(_record(), _event(published_at="2026-01-02T03:04:05+02:00"))
    assert notes.published_at.isoformat() == "2026-01-02T01:04:05+00:00"


def test_an_event_that_was_moved_parked_or_replayed_waits_since_then() -> None:
    assert Notes(_record()).waits_since == Notes(_record()).published_at
    assert Notes(_record(left_at=b"2026-01-02T03:04:05.5+00:00")).waits_since.isoformat().startswith("2026-01-02T03:04")
    replayed = Notes(_record(timestamp_ms=1_767_225_600_000, replay=b"1"), _event(published_at="2025-01-01T00:00:00Z"))
    assert replayed.waits_since.year == 2026


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"yesterday", b"2026-01-02T03:04:05", b"0001-01-01T00:00:00+14:00", b"9" * 5000]
)
def test_a_damaged_time_of_leaving_is_none(damage: bytes) -> None:
    assert Notes(_record(left_at=damage)).waits_since == Notes(_record()).published_at


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_beyond_all_calendars_is_an_invalid_event_with_its_id(moment: str) -> None:
    with pytest.raises(ContractError) as caught:
        decode_event(b'{"event_id": "e", "uri": "file:///a", "published_at": "%s"}' % moment.encode())
    assert (caught.value.reason, caught.value.event_id) == (Reason.INVALID_EVENT, "e")
