"""What a parked event says about itself, and what it says when it is back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from consumer.core.event import Moves, Notes
from consumer.core.model import Record
from consumer.core.outcomes import Moment, Parked
from consumer.core.parking import Waited, as_it_was, due_at, encode_attempts
from consumer.core.prices import spent_usd
from schemas.codes import Header, Hold
from schemas.models import Attempt
from schemas.topics import Topics

UNTIL = datetime(2026, 11, 25, 22, 0, tzinfo=UTC)
MOMENT = Moment(datetime(2026, 11, 25, 12, 0, tzinfo=UTC), 0.1)


def record(key: bytes | None = b"k", headers: tuple[tuple[str, bytes], ...] = (("x", b"1"),)) -> Record:
    return Record("audio.events", 2, 40, 1_767_225_600_000, key, b"{}", headers)


def attempt(cost_usd: float, outcome: str = "engine_failed") -> Attempt:
    return Attempt(engine="openai", model="m", outcome=outcome, audio_seconds=2.0, cost_usd=cost_usd, seconds=1.0)


def parked(event: Record, *attempts: Attempt, until: datetime = UNTIL) -> Record:
    """The event as it comes back."""
    outcome = Parked(Notes(event, attempts=list(attempts)), Hold.BUDGET_EXHAUSTED, until)
    [write] = outcome.writes(Topics("audio"), MOMENT, 1000)
    assert write.headers is not None
    assert (write.topic, write.partition, write.value) == ("audio.parked", event.partition, event.value)
    assert write.timestamp_ms == event.timestamp_ms
    key, headers = as_it_was(write.headers)
    return Record("audio.events", 2, 99, event.timestamp_ms, key, event.value, tuple(headers))


@pytest.mark.parametrize("key", [b"k", None, b"", b"\xff"])
def test_an_event_comes_back_under_its_own_key_with_its_own_headers(key: bytes | None) -> None:
    again = parked(record(key))
    assert again.key == key
    assert again.header("x") == b"1"
    assert Moves.of(again).origin == "audio.events/2/40"
    assert Moves.of(again).count == 0


def test_two_records_that_claim_one_origin_are_parked_in_places_of_their_own() -> None:
    claims = ((Header.MOVES, b"1"), (Header.ORIGIN, b"audio.events/3/7"))
    places = []
    for offset in (1, 2):
        here = Record("audio.events", 2, offset, 0, b"k", b"{}", claims)
        [write] = Parked(Notes(here), Hold.OFF_PEAK, UNTIL).writes(Topics("audio"), MOMENT, 1000)
        places.append(write.key)
    assert places == [b"audio.events/2/1", b"audio.events/2/2"]


def test_it_says_until_when_and_for_what_on_whatever_clock_that_was_told() -> None:
    east = UNTIL.astimezone(timezone(timedelta(hours=3)))
    again = parked(record(), until=east)
    waited = Waited.of(again)
    assert waited is not None
    assert waited.until == due_at(again.headers) == UNTIL.timestamp()
    assert waited.has_waited_for(Hold.BUDGET_EXHAUSTED, UNTIL.timestamp())
    assert not waited.has_waited_for(Hold.BUDGET_EXHAUSTED, UNTIL.timestamp() - 1)
    assert not waited.has_waited_for(Hold.OFF_PEAK, UNTIL.timestamp())


def test_what_was_tried_comes_back_with_it_but_of_free_tries_only_so_many() -> None:
    tries = [attempt(0.25), *[attempt(0.0)] * 30, attempt(0.5)]
    waited = Waited.of(parked(record(), *tries))
    assert waited is not None
    assert spent_usd(waited.attempts) == 0.75
    assert len(waited.attempts) == 22
    again = Waited.of(parked(record(), *waited.attempts, attempt(0.0)))
    assert again is not None
    assert len(again.attempts) == 22


@pytest.mark.parametrize("cost", ["1e999", "-0.5"])
def test_a_ledger_line_that_cannot_be_is_not_believed(cost: str) -> None:
    line = encode_attempts([attempt(0.25)])
    forged = ((Header.PARKED_UNTIL, b""), (Header.PARKED_ATTEMPTS, line.replace(b":0.25,", f":{cost},".encode())))
    waited = Waited.of(record(headers=forged))
    assert waited is not None
    assert waited.attempts == []


def test_an_event_that_is_parked_again_says_the_latest_only() -> None:
    twice = parked(parked(record(), attempt(0.25)), until=UNTIL + timedelta(days=1))
    waited = Waited.of(twice)
    assert waited is not None
    assert waited.until == (UNTIL + timedelta(days=1)).timestamp()
    assert waited.attempts == []
    assert sum(name == Header.PARKED_UNTIL for name, _ in twice.headers) == 1
    assert Moves.of(twice).origin == "audio.events/2/40"


@pytest.mark.parametrize("damage", [b"", b"tomorrow", b"\xff", b"2026-11-25"])
def test_damaged_headers_let_an_event_go(damage: bytes) -> None:
    broken = record(headers=((Header.PARKED_UNTIL, damage), (Header.PARKED_ATTEMPTS, b"[{]")))
    waited = Waited.of(broken)
    assert waited is not None
    assert waited.until <= UNTIL.timestamp()
    assert waited.attempts == []
    assert Waited.of(record()) is None
