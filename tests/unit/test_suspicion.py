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
        if suspicion.is_condemned(offset):
            condemned.add(offset)
            settled.add(offset)
            continue
        batch = [event for event in range(offset, events) if event not in settled][:in_flight]
        if suspicion.is_suspect(offset):
            company = [offset]
            while (after := company[-1] + 1) in batch and Caution(suspicion).may_join(after, offset, len(company)):
                company.append(after)
            suspicion, batch = suspicion.trying(company[0], company[-1]), company
        if killers & set(batch):
            deaths += 1
            assert deaths < 1000, "a crash loop"
            suspicion = suspicion.after_death(offset, min(events, offset + in_flight))
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


def twice_dead() -> Suspicion:
    return NO_SUSPICION.after_death(10, 40).after_death(12, 90)


def test_one_death_slows_nothing() -> None:
    after = NO_SUSPICION.after_death(10, 40)

    assert not any(after.is_suspect(offset) for offset in range(10, 50))


def test_two_deaths_without_progress_make_suspects_of_what_was_in_flight_and_of_nothing_later() -> None:
    after = twice_dead()

    assert [offset for offset in range(10, 50) if after.is_suspect(offset)] == list(range(10, 40))
    assert not any(after.must_be_alone(offset) for offset in range(10, 50))


def test_a_death_over_a_few_has_them_tried_alone_as_far_as_they_were_not_settled() -> None:
    after = twice_dead().trying(12, 20).after_death(15, 90)

    assert [offset for offset in range(15, 50) if after.must_be_alone(offset)] == list(range(15, 21))


def test_deaths_that_come_while_nothing_is_on_trial_blame_nobody() -> None:
    suspicion = twice_dead()
    for _ in range(5):
        suspicion = suspicion.trying(12, 20).after_death(21, 90)  # all of them were settled
        suspicion = suspicion.trying(21, 25).called_off().after_death(21, 90)

    assert not any(suspicion.must_be_alone(offset) for offset in range(10, 50))


def test_an_event_is_condemned_for_deaths_alone_and_not_for_trials_that_were_called_off() -> None:
    suspicion = twice_dead().trying(12, 20).after_death(12, 90)
    for _ in range(5):
        suspicion = suspicion.trying(12, 12).called_off()
    assert not suspicion.is_condemned(12)

    suspicion = suspicion.after_death(12, 90)  # before its trial began
    assert not suspicion.trying(12, 12).is_condemned(12)

    suspicion = suspicion.trying(12, 12).after_death(12, 90).trying(12, 12)
    assert not suspicion.is_condemned(12)
    assert suspicion.after_death(12, 90).is_condemned(12)


def test_getting_past_the_suspects_forgets_the_deaths() -> None:
    assert Suspicion(2, 30, 16, 12, 1).past(30) == NO_SUSPICION


def test_a_death_with_nothing_in_flight_is_no_suspicion() -> None:
    assert NO_SUSPICION.after_death(10, 10) == NO_SUSPICION


def test_a_careful_lane_tries_few_suspects_at_once_with_nothing_beside_them() -> None:
    few = Caution(twice_dead())
    assert few.allows(12, 0)
    assert not few.allows(12, 1), "beside events that it has begun"
    size = 1
    while few.may_join(12 + size, 12, size):
        size += 1
    assert size == SUSPECTS_AT_ONCE
    assert not few.may_join(40, 39, 1), "what was not in flight then is no suspect"
    few.is_trying = True
    assert not few.allows(50, 0)


def test_those_it_died_over_are_tried_without_company() -> None:
    alone = Caution(twice_dead().trying(12, 15).after_death(12, 90))

    assert not alone.may_join(13, 12, 1)
    assert not alone.may_join(15, 16, 1)
    assert alone.may_join(17, 16, 1)
