"""The usual mix of recordings, as lengths. Needs numpy only."""

import math

import numpy as np

MEAN_SECONDS, VARIATION, LONGEST_SECONDS = 6.5, 0.7, 35.0
"""The usual mix of recordings: log-normal lengths, their mean, their coefficient of variation, and their cap."""
SHORTEST_SECONDS = 0.1


def lengths(count: int, random: np.random.Generator) -> list[float]:
    """The usual mix; a log-normal of that mean and variation has these parameters."""
    sigma = math.sqrt(math.log(1 + VARIATION**2))
    drawn = random.lognormal(math.log(MEAN_SECONDS) - sigma**2 / 2, sigma, count)
    return [float(seconds) for seconds in drawn.clip(SHORTEST_SECONDS, LONGEST_SECONDS)]


def pieces(seconds: float, longest: float) -> list[float]:
    """A recording in equal pieces that are not too long."""
    count = math.ceil(seconds / longest)
    return [seconds / count] * count
