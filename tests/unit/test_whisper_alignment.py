"""Dynamic time warping against the plain definition of it."""

import numpy as np
import pytest

from consumer.engines.whisper_alignment import align, warp


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_monotonic_and_as_cheap_as_can_be(seed: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(7, 40))

    path = warp(cost)

    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [6, 39]
    steps = np.diff(path, axis=0)
    assert set(map(tuple, steps.tolist())) <= {(0, 1), (1, 0), (1, 1)}
    assert cost[path[:, 0], path[:, 1]].sum() == pytest.approx(_cheapest(cost))


def test_tokens_are_placed_where_the_heads_look() -> None:
    attention = np.full((2, 4, 80), 0.001, np.float32)
    for token, first in enumerate((0, 20, 50, 70)):
        attention[:, token, first : first + 10] = 1.0

    path = align(attention)

    starts = [int(path[path[:, 0] == token, 1].min()) for token in range(4)]
    assert starts == pytest.approx([0, 20, 50, 70], abs=11)
    assert starts == sorted(starts)


def test_a_window_of_one_position_is_aligned() -> None:
    assert align(np.ones((2, 3, 1), np.float32)).tolist() == [[0, 0], [1, 0], [2, 0]]


def _cheapest(cost: np.ndarray) -> float:
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for row in range(cost.shape[0]):
        for column in range(cost.shape[1]):
            before = min(total[row, column], total[row, column + 1], total[row + 1, column])
            total[row + 1, column + 1] = cost[row, column] + before
    return float(total[-1, -1])
