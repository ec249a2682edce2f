"""Deaths of the process, and what becomes of the events that were in flight then."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.suspicion import CONDEMNED_AFTER_TRIES, NO_SUSPICION, SUSPECTS_AT_ONCE, Caution, Suspicion


def lives_until_settled(killers: set[int], offsets: list[int], in_flight: int) -> tuple[int, set[int]]:
    """Play a partition to its end: how often the process died, and which events were condemned."""
    suspicion, condemned, deaths, left = NO_SUSPICION, set[int](), 0, list(offsets)
    committed = 0
    while left:
        batch = left[:in_flight]
        if suspicion.is_condemned(left[0]):
            batch = left[:1]
            condemned.add(left[0])
        elif suspicion.is_careful:
            batch = left[:1]
            for event in left[1:]:
                if Caution(suspicion).may_join(event, left[0], len(batch)):
                    batch.append(event)
            # naming them, the lane commits the first of them as the lowest that is not settled
            committed = left[0]
            suspicion = suspicion.past(committed).trying(batch[0], batch[-1])
        if killers & set(batch) - condemned:
            deaths += 1
            assert deaths < 1000, "a crash loop"
            suspicion = suspicion.after_death(committed, min(offsets[-1] + 1, committed + in_flight))
        else:
            left = left[len(batch) :]
            committed = batch[-1] + 1
            suspicion = suspicion.past(committed)
    return deaths, condemned


@given(
    gaps=st.lists(st.sampled_from([1, 1, 1, 2, 30]), min_size=31, max_size=60),
    killers=st.sets(st.integers(0, 30), max_size=4),
    in_flight=st.sampled_from([1, 3, 20]),
)
def test_exactly_the_killers_are_condemned_whatever_their_neighbours_and_the_gaps_between(
    gaps: list[int], killers: set[int], in_flight: int
) -> None:
    offsets = list(accumulate(gaps))
    deadly = {offsets[number] for number in killers}

    deaths, condemned = lives_until_settled(deadly, offsets, in_flight)

    assert condemned == deadly
    assert deaths <= 10 * len(killers)


def twice_dead() -> Suspicion:
    return NO_SUSPICION.after_death(10, 40).after_death(12, 90)


def test_one_death_slows_nothing() -> None:
    after = NO_SUSPICION.after_death(10, 40)

    assert not after.is_careful


def test_two_deaths_make_suspects_of_whatever_is_begun_until_what_was_in_flight_is_settled() -> None:
    after = twice_dead()

    assert after.is_careful
    assert after.past(39).is_careful
    assert not after.past(40).is_careful
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

    for _ in range(CONDEMNED_AFTER_TRIES):
        assert not suspicion.is_condemned(12)
        suspicion = suspicion.trying(12, 12).after_death(12, 90)
    assert suspicion.is_condemned(12)


def test_getting_past_the_suspects_forgets_the_deaths() -> None:
    assert Suspicion(2, 30, 16, 12, 1).past(30) == NO_SUSPICION


def test_a_death_with_nothing_in_flight_is_no_suspicion() -> None:
    assert NO_SUSPICION.after_death(10, 10) == NO_SUSPICION


def test_a_careful_lane_tries_few_suspects_at_once_with_nothing_beside_them() -> None:
    few = Caution(twice_dead())
    assert few.allows(unsettled=0)
    assert not few.allows(unsettled=1)
    size = 1
    while few.may_join(12 + size, 12, size):
        size += 1
    assert size == SUSPECTS_AT_ONCE
    few.is_trying = True
    assert not few.allows(unsettled=0)


def test_those_it_died_over_are_tried_without_company() -> None:
    alone = Caution(twice_dead().trying(12, 15).after_death(12, 90))

    assert not alone.may_join(13, 12, 1)
    assert not alone.may_join(15, 16, 1)
    assert alone.may_join(17, 16, 1)
