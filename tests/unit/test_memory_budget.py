from hypothesis import given
from hypothesis import strategies as st

from consumer.core.memory_budget import RELAX_SECONDS, MemoryBudget


def test_until_something_was_too_much_a_batch_goes_whole() -> None:
    assert MemoryBudget().parts([1.0, 2.0], 0.0) == [slice(0, 2)]
    assert MemoryBudget().parts([], 0.0) == []


def test_what_was_too_much_is_halved_and_so_is_what_comes_after() -> None:
    budget = MemoryBudget()
    budget.exceeded(40.0, 0.0)
    assert budget.parts([5.0] * 8, 1.0) == [slice(0, 4), slice(4, 8)]
    budget.exceeded(20.0, 1.0)
    assert budget.parts([5.0] * 8, 2.0) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


def test_with_time_twice_as_much_is_tried_again_until_there_is_no_limit() -> None:
    budget = MemoryBudget()
    budget.exceeded(40.0, 0.0)
    budget.exceeded(20.0, 1.0)
    assert budget.limit_seconds(RELAX_SECONDS) == 10.0
    assert budget.limit_seconds(1.0 + RELAX_SECONDS) == 20.0
    assert budget.limit_seconds(1.0 + 2 * RELAX_SECONDS) is None
    assert budget.parts([5.0] * 8, 2 * RELAX_SECONDS + 2) == [slice(0, 8)]


@given(st.lists(st.floats(0.01, 30.0), max_size=20), st.floats(1.0, 100.0))
def test_parts_cover_the_batch_in_order_and_keep_the_limit(lengths: list[float], too_much: float) -> None:
    budget = MemoryBudget()
    budget.exceeded(too_much, 0.0)
    parts = [lengths[part] for part in budget.parts(lengths, 0.0)]
    assert [length for part in parts for length in part] == lengths
    for part in parts:
        assert len(part) == 1 or len(part) * max(part) <= too_much / 2
