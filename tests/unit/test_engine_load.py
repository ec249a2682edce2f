"""What is said of an engine's last minute."""

import pytest

from consumer.core.engine_load import EngineLoad


def _add(load: EngineLoad, now: float, *, busy_seconds: float = 3.0, slots: int = 1) -> None:
    load.add(
        chunks=4,
        closed="budget",
        audio_seconds=60.0,
        padded_seconds=80.0,
        busy_seconds=busy_seconds,
        slots=slots,
        now=now,
    )


def test_ratios_are_of_the_last_minute_and_sums_of_all_time() -> None:
    load = EngineLoad(started=0.0)
    _add(load, 10.0)
    _add(load, 100.0)
    _add(load, 101.0)
    minute = load.minute(110.0)
    assert (minute.batches, minute.chunks_per_batch) == (2, 4.0)
    assert minute.padding_ratio == pytest.approx(0.25)
    assert minute.busy_ratio == pytest.approx(6 / 60)
    assert minute.realtime_factor == pytest.approx(2.0)
    assert (load.batches, load.chunks, load.audio_seconds) == ({"budget": 3}, 12, 180.0)


def test_a_young_engine_is_measured_by_its_own_age() -> None:
    load = EngineLoad(started=100.0)
    _add(load, 110.0)
    assert load.minute(110.0).busy_ratio == pytest.approx(0.3)
    assert load.minute(110.0).realtime_factor == pytest.approx(6.0)


def test_two_devices_are_half_as_busy_and_none_is_more_than_busy() -> None:
    load = EngineLoad(started=0.0)
    _add(load, 60.0, busy_seconds=30.0, slots=2)
    assert load.minute(60.0).busy_ratio == pytest.approx(0.25)
    _add(load, 60.0, busy_seconds=600.0, slots=2)
    assert load.minute(60.0).busy_ratio == 1.0


def test_an_idle_minute_has_no_padding_and_no_fill() -> None:
    minute = EngineLoad(started=0.0).minute(1000.0)
    assert (minute.batches, minute.chunks_per_batch, minute.padding_ratio) == (0, None, None)
    assert (minute.busy_ratio, minute.realtime_factor) == (0.0, 0.0)
