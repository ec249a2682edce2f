"""The bench's plan is decided beforehand, and is the same for the same seed."""

from collections import Counter

from tests.faults.plan import (
    BROKER_KINDS,
    CALM_SECONDS,
    HOLDS,
    PROCESS_KINDS,
    WARM_SECONDS,
    Kind,
    Point,
    Shape,
    Shares,
    make_plan,
)

SHARES = Shares(seconds=600.0, processes=3, nodes=3, partitions=6, fault_every_seconds=3.0, killers=2, toxic=1)
KINDS = (*PROCESS_KINDS, *BROKER_KINDS)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert make_plan(7, SHARES, KINDS) == make_plan(7, SHARES, KINDS)
    assert make_plan(7, SHARES, KINDS).faults != make_plan(8, SHARES, KINDS).faults
    assert make_plan(7, SHARES, KINDS).events != make_plan(8, SHARES, KINDS).events


def test_a_long_plan_has_every_fault_every_crash_point_and_every_broker_in_order_of_time() -> None:
    faults = make_plan(1, SHARES, KINDS).faults

    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.point for fault in faults if fault.kind is Kind.CRASH} == set(Point)
    assert {fault.target for fault in faults if fault.kind is Kind.BROKER} == {1, 2, 3}
    assert {fault.target for fault in faults if fault.kind is Kind.STEAL} <= set(range(SHARES.partitions))
    assert [fault.at_seconds for fault in faults] == sorted(fault.at_seconds for fault in faults)
    assert all(WARM_SECONDS <= fault.at_seconds <= SHARES.seconds - CALM_SECONDS for fault in faults)
    assert all((fault.hold_seconds > 0) == (fault.kind in HOLDS) for fault in faults)


def test_a_kind_that_is_named_twice_comes_twice_as_often() -> None:
    counted = Counter(fault.kind for fault in make_plan(1, SHARES, [Kind.KILL, Kind.KILL, Kind.LEAVE]).faults)

    assert abs(counted[Kind.KILL] - 2 * counted[Kind.LEAVE]) <= 2


def test_the_load_has_every_shape_of_event_equal_recordings_and_names_of_its_own() -> None:
    events = make_plan(1, SHARES, ()).events
    shapes = Counter(event.shape for event in events)
    recordings = Counter(event.recording for event in events)

    assert len(events) == 18_000
    assert set(shapes) == set(Shape)
    assert shapes[Shape.KILLER] == 2
    assert len({event.event_id for event in events}) == len(events)
    assert 0.4 < sum(count - 1 for count in recordings.values()) / len(events) < 0.6


def test_equal_recordings_belong_to_one_tenant_so_that_each_is_heard_once() -> None:
    owners = {(event.recording, event.tenant) for event in make_plan(1, SHARES, ()).events}

    assert len(owners) == len({recording for recording, _ in owners})


def test_nothing_is_broken_without_kinds() -> None:
    assert make_plan(1, SHARES, ()).faults == ()
