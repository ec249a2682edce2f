"""Which moment of a window each token of Whisper belongs to: its cross-attention, followed by dynamic time warping.

Pure numpy, after OpenAI's own method. CTranslate2 brings its own; this serves transformers.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_MEDIAN_WIDTH = 7

Matrix = npt.NDArray[np.float64]


def align(attention: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """The path through a window; rows ``(token, encoder position)``, neither ever running backwards.

    ``attention`` has the shape (alignment heads, tokens, encoder positions that hold sound), each row a softmax.
    """
    weights = attention.astype(np.float64)
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    spread = np.maximum(weights.std(axis=-2, keepdims=True), np.finfo(np.float64).tiny)
    weights = (weights - weights.mean(axis=-2, keepdims=True)) / spread
    return warp(-_median(weights).mean(axis=0))


def warp(cost: Matrix) -> npt.NDArray[np.intp]:
    """The cheapest monotonic path from the first to the last cell; shape (steps, 2)."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(rows):
        # total[row + 1, j] = cost[j] + min(entry[j], total[row + 1, j - 1]), unrolled into one running minimum
        entry = np.minimum(total[row, :-1], total[row, 1:])
        summed = np.cumsum(cost[row])
        total[row + 1, 1:] = summed + np.minimum.accumulate(entry - (summed - cost[row]))
    return _trace(total)


def _trace(total: Matrix) -> npt.NDArray[np.intp]:
    row, column = total.shape[0] - 1, total.shape[1] - 1
    path: list[tuple[int, int]] = []
    while row and column:
        path.append((row - 1, column - 1))
        came_from = int(np.argmin((total[row - 1, column - 1], total[row - 1, column], total[row, column - 1])))
        row, column = row - (came_from != 2), column - (came_from != 1)
    return np.array(path[::-1], np.intp).reshape(-1, 2)


def _median(weights: Matrix) -> Matrix:
    """A running median along time, the edges mirrored."""
    reach = _MEDIAN_WIDTH // 2
    if weights.shape[-1] <= reach:
        return weights
    padded = np.pad(weights, ((0, 0), (0, 0), (reach, reach)), mode="reflect")
    windows: npt.NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_WIDTH, axis=-1)
    return np.asarray(np.sort(windows, axis=-1)[..., reach], np.float64)  # five times quicker than np.median
