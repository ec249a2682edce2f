"""The cheap hours, on whatever clock they are told."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from consumer.core.off_peak import CheapHours
from consumer.settings import Settings


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_hours_over_midnight_hold_on_both_sides_of_it() -> None:
    hours = CheapHours.parse("22:00-06:00")
    held = {clock: hours.hold(at(f"2026-11-25T{clock}")) for clock in ("21:59", "22:00", "00:00", "05:59", "06:00")}
    assert held == {"21:59": False, "22:00": True, "00:00": True, "05:59": True, "06:00": False}


def test_hours_within_a_day_hold_in_between() -> None:
    hours = CheapHours.parse("01:30-04:00")
    assert [hours.hold(at(f"2026-11-25T{clock}")) for clock in ("01:29", "01:30", "03:59", "04:00")] == [
        False,
        True,
        True,
        False,
    ]


def test_the_next_start_is_today_or_tomorrow() -> None:
    hours = CheapHours.parse("22:00-06:00")
    assert hours.next_start(at("2026-11-25T12:00")) == at("2026-11-25T22:00")
    assert hours.next_start(at("2026-11-25T22:00")) == at("2026-11-26T22:00")


def test_a_zone_keeps_its_own_clock_through_the_change_of_summer_time() -> None:
    hours = CheapHours.parse("22:00-06:00 Europe/Berlin")
    assert hours.next_start(at("2026-10-24T12:00")) == at("2026-10-24T20:00")
    assert hours.next_start(at("2026-10-25T12:00")) == at("2026-10-25T21:00")
    assert hours.hold(at("2026-07-01T20:30"))
    assert not hours.hold(at("2026-12-01T20:30"))


@pytest.mark.parametrize("text", ["22-6", "22:00", "25:00-06:00", "22:00-22:00", "22:00-06:00 Nowhere/Land", ""])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"22:00-06:00|Europe/Berlin"):
        Settings(off_peak_hours=text)


def test_what_can_be_read_is_taken() -> None:
    for text in ("22:00-06:00", "01:30-04:00 America/New_York"):
        assert CheapHours.parse(Settings(off_peak_hours=text).off_peak_hours or "").hold(at("2026-11-25T06:30")) == (
            text != "22:00-06:00"
        )
