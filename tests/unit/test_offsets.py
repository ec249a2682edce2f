"""The offset map and its metadata against a plain set as the oracle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core import commit_metadata
from consumer.core.commit_metadata import UnreadableMetadataError
from consumer.core.offsets import CommitPoint, OffsetMap


def reopen(point: CommitPoint) -> OffsetMap:
    """What the next owner makes of a commit, through the bytes that Kafka keeps."""
    text = commit_metadata.encode(point, commit_number=7, owner="ab12", clean=False)
    assert len(text) <= commit_metadata.METADATA_BYTES_LIMIT
    back = commit_metadata.decode(text, point.offset)
    assert (back.commit_number, back.owner) == (7, "ab12")
    assert back.settled == point.settled
    return OffsetMap(CommitPoint(point.offset, back.settled))


@settings(max_examples=300)
@given(data=st.data())
def test_after_any_crash_exactly_the_unsettled_offsets_are_given_again(data: st.DataObject) -> None:
    log = sorted(data.draw(st.sets(st.integers(0, 400), min_size=1, max_size=120)))  # compaction and markers leave gaps
    start = data.draw(st.integers(0, log[0]))
    offsets, settled, taken = OffsetMap(CommitPoint(start)), set[int](), set[int]()
    for _crash in range(data.draw(st.integers(1, 4))):
        reading = [offset for offset in log if offset >= offsets.next_offset]
        for offset in reading[: data.draw(st.integers(0, len(reading)))]:
            assert offsets.give(offset) is (offset not in settled)
            if offset not in settled:
                taken.add(offset)
        for offset in data.draw(st.permutations(sorted(taken))):
            if data.draw(st.booleans()):
                offsets.settle(offset)
                taken.discard(offset)
                settled.add(offset)
        offsets = reopen(offsets.commit_point())
        taken.clear()
    given_again = {offset for offset in log if offset >= offsets.next_offset and offsets.give(offset)}
    assert given_again == set(log) - settled


@settings(max_examples=60)
@given(data=st.data())
def test_while_there_is_room_the_metadata_always_fits(data: st.DataObject) -> None:
    offsets, at, open_offsets = OffsetMap(CommitPoint(0)), 0, []
    stride = data.draw(st.sampled_from([1, 3, 50, 5000, 10_000_000]))
    while offsets.has_room():
        assert offsets.give(at)
        open_offsets.append(at)
        at += stride
    pattern = data.draw(st.integers(2, 5))
    for index, offset in enumerate(open_offsets[1:]):
        if index % pattern:
            offsets.settle(offset)
    reopen(offsets.commit_point())


def test_a_lane_that_was_far_ahead_of_one_slow_event_takes_records_again_after_a_restart() -> None:
    offsets = reopen(CommitPoint(100, ((101, 200_101),)))

    assert offsets.has_room()
    assert offsets.give(100)
    assert not offsets.give(101)
    assert offsets.has_room()
    assert offsets.give(200_101)


class _Counted(int):
    """An offset that counts how often it is compared."""

    compared = 0

    def __le__(self, other: int) -> bool:
        _Counted.compared += 1
        return int(self) <= other


def test_taking_records_again_looks_once_at_what_was_settled_ahead_however_much_that_is() -> None:
    offsets = OffsetMap(CommitPoint(0, tuple((_Counted(n), _Counted(n + 1)) for n in range(1, 8_000, 2))))

    for offset in range(8_000):
        assert offsets.give(offset) is not bool(offset % 2)

    assert 8_000 < _Counted.compared < 4 * 8_000


def test_an_offset_that_is_tracked_is_not_given_twice() -> None:
    offsets = OffsetMap(CommitPoint(10))

    assert offsets.give(10)
    assert not offsets.give(10)
    assert not offsets.give(9)


def test_a_drained_partition_commits_past_trailing_transaction_markers() -> None:
    offsets = OffsetMap(CommitPoint(10))
    offsets.give(10)
    offsets.advance(12)
    offsets.settle(10)

    assert offsets.commit_point() == CommitPoint(12)


def test_a_stuck_record_holds_the_committed_offset_but_not_the_ones_behind_it() -> None:
    offsets = OffsetMap(CommitPoint(0))
    for offset in range(5):
        offsets.give(offset)
    for offset in (1, 2, 4):
        offsets.settle(offset)

    assert offsets.commit_point() == CommitPoint(0, ((1, 3), (4, 5)))


@pytest.mark.parametrize(
    "text", ["2.1.a.o.0.r.", "1.x.a.o.0.r.", "nonsense", "1.1.a.o.0.r.gA", "1.1.a.q.0.r.", "1.1.a.o.0.r", "1.1.o.0.r."]
)
def test_unknown_or_damaged_metadata_is_reported(text: str) -> None:
    with pytest.raises(UnreadableMetadataError):
        commit_metadata.decode(text, 0)


def test_offsets_set_by_kafkas_own_tools_are_a_fresh_start() -> None:
    assert commit_metadata.decode("", 5) == commit_metadata.CommitMetadata()
