"""Deaths of the process, and what becomes of the events that were in flight then."""

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.suspicion import NO_SUSPICION, SUSPECTS_AT_ONCE, Caution, Suspicion


def lives_until_settled(killers: set[int], events: int, in_flight: int) -> tuple[int, set[int]]:
    """Play a partition to its end: how often the process died, and which events were condemned."""
    suspicion, settled, condemned, deaths = NO_SUSPICION, set[int](), set[int](), 0
    while len(settled) < events:
        offset = min(set(range(events)) - settled)
        suspicion = suspicion.past(offset)
        batch = [event for event in range(offset, events) if event not in settled][:in_flight]
        if suspicion.is_condemned(offset):
            condemned.add(offset)
            settled.add(offset)
            continue
        few = [event for event in range(offset, events) if event not in settled][:SUSPECTS_AT_ONCE]
        if suspicion.must_be_alone(offset):
            suspicion, batch = suspicion.trying(offset), [offset]
        elif suspicion.is_suspect(offset):
            batch = [event for event in few if not suspicion.must_be_alone(event)]
        if killers & set(batch):
            deaths += 1
            assert deaths < 1000, "a crash loop"
            suspicion = suspicion.after_death(offset, min(events, offset + in_flight), few[-1] + 1)
        else:
            settled |= set(batch)
    return deaths, condemned


@given(
    killers=st.sets(st.integers(0, 30), max_size=4), events=st.integers(31, 60), in_flight=st.sampled_from([1, 3, 20])
)
def test_exactly_the_killers_are_condemned_whatever_their_neighbours(
    killers: set[int], events: int, in_flight: int
) -> None:
    deaths, condemned = lives_until_settled(killers, events, in_flight)

    assert condemned == killers
    assert deaths <= 6 * len(killers), "twice in company, once or twice among few, twice alone"


def test_one_death_slows_nothing() -> None:
    after = NO_SUSPICION.after_death(10, 30, 14)

    assert not any(after.is_suspect(offset) for offset in range(10, 40))


def test_two_deaths_without_progress_make_suspects_of_what_was_in_flight_and_of_nothing_later() -> None:
    after = NO_SUSPICION.after_death(10, 30, 14).after_death(12, 90, 16)

    assert [offset for offset in range(10, 40) if after.is_suspect(offset)] == list(range(10, 30))
    assert not any(after.must_be_alone(offset) for offset in range(10, 40))
    worse = after.after_death(12, 90, 16)
    assert [offset for offset in range(12, 40) if worse.must_be_alone(offset)] == list(range(12, 16))


def test_an_event_is_condemned_for_deaths_alone_and_not_for_trials_that_were_called_off() -> None:
    suspicion = NO_SUSPICION.after_death(10, 30, 14).after_death(10, 30, 14).after_death(10, 30, 14)
    for _ in range(5):
        suspicion = suspicion.trying(10).called_off()
    assert not suspicion.is_condemned(10)

    suspicion = suspicion.after_death(10, 30, 14)  # before its trial began
    assert not suspicion.trying(10).is_condemned(10)

    suspicion = suspicion.trying(10).after_death(10, 30, 14).trying(10)
    assert not suspicion.is_condemned(10)
    assert suspicion.after_death(10, 30, 14).is_condemned(10)


def test_getting_past_the_suspects_forgets_the_deaths() -> None:
    assert Suspicion(2, 30, 16, 12, 1).past(30) == NO_SUSPICION


def test_a_death_with_nothing_in_flight_is_no_suspicion() -> None:
    assert NO_SUSPICION.after_death(10, 10, 10) == NO_SUSPICION


def test_a_careful_lane_begins_few_suspects_at_once_and_those_it_died_over_alone() -> None:
    few = Caution(NO_SUSPICION.after_death(10, 30, 14).after_death(10, 30, 14))
    begun = 0
    while few.allows(10 + begun, begun):
        few.begins(10 + begun)
        begun += 1
    assert begun == SUSPECTS_AT_ONCE
    assert few.allows(30, begun), "what was not in flight then need not wait"

    alone = Caution(few.suspicion.after_death(10, 30, 14))
    assert alone.allows(10, 0)
    assert alone.begins(10)
    assert not alone.allows(30, 1)
    alone.alone = None
    assert not alone.allows(11, 1)
    assert alone.allows(11, 0)
