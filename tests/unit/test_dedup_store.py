"""The dedup slices of the lanes that are open here."""

from pathlib import Path

import pytest

from consumer.dedup.store import DedupSlice, DedupSlices
from consumer.errors import ServiceError


@pytest.fixture
def slice_(tmp_path: Path) -> DedupSlice:
    return DedupSlice(tmp_path / "dedup")


def test_the_last_record_of_a_key_counts(slice_: DedupSlice) -> None:
    slice_.apply([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert (slice_.get(b"a"), slice_.get(b"b"), slice_.get(b"c")) == (b"3", b"2", None)


def test_a_null_value_forgets_its_key(slice_: DedupSlice) -> None:
    slice_.apply([(b"a", b"1"), (b"a", None), (b"never", None)])
    assert slice_.get(b"a") is None


def test_a_forgotten_key_can_come_back(slice_: DedupSlice) -> None:
    slice_.apply([(b"a", b"1"), (b"a", None)])
    slice_.apply([(b"a", b"2")])
    assert slice_.get(b"a") == b"2"


def test_no_crash_can_leave_a_slice_behind(tmp_path: Path) -> None:
    slice_ = DedupSlice(tmp_path)
    slice_.apply([(b"a", b"1")])
    assert not list(tmp_path.iterdir())
    slice_.close()
    assert not list(tmp_path.iterdir())


def test_slices_answer_for_open_partitions_only(tmp_path: Path) -> None:
    slices, mine = DedupSlices(), DedupSlice(tmp_path)
    slices.put(1, b"a", b"lost: nobody here owns it")
    slices.open(1, mine)
    assert slices.get(1, b"a") is None
    slices.put(1, b"a", b"1")
    assert (slices.get(1, b"a"), slices.get(2, b"a")) == (b"1", None)
    slices.close(1, mine)
    assert slices.get(1, b"a") is None


def test_a_late_close_leaves_the_newer_lane_of_the_partition_alone(tmp_path: Path) -> None:
    slices, old, new = DedupSlices(), DedupSlice(tmp_path), DedupSlice(tmp_path)
    slices.open(1, old)
    slices.open(1, new)
    slices.close(1, old)
    slices.put(1, b"a", b"1")
    assert slices.get(1, b"a") == b"1"
    slices.close(1, new)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_a_slice_stops_the_service_and_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match="state_dir"):
        DedupSlice(tmp_path / "file")
    slice_ = DedupSlice(tmp_path)
    slice_.close()
    with pytest.raises(ServiceError, match="state_dir"):
        slice_.apply([(b"a", b"1")])
