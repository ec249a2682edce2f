"""How Whisper's decoder keeps what it has attended to, chosen by the clock on the device at hand.

A growing (dynamic) cache works everywhere. A static one has one shape, so that transformers compiles the decoder's
step once and replays it as a CUDA graph: a GPU then no longer waits for the host between tokens. It pays only there,
and only if every decoding has the same number of rows; a smaller batch is filled up with copies.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Literal

Cache = Literal["dynamic", "static"]

STATIC_ROWS = 16
"""Rows of every decoding with a static cache; a larger batch takes the dynamic one."""


def may_be_static(device: str) -> bool:
    """Whether it is worth trying: elsewhere nothing is compiled, and filled-up rows only cost."""
    return device.startswith("cuda")


def quicker(ways: Mapping[Cache, Callable[[], object]], clock: Callable[[], float]) -> Cache:
    """The way whose second run is the quickest; its first one may compile.

    A way that fails is out, which is said on stderr. Raises what ``dynamic`` raises: without it nothing works.
    """
    taken: dict[Cache, float] = {}
    for cache, run in ways.items():
        try:
            run()
            began = clock()
            run()
            taken[cache] = clock() - began
        except Exception as error:
            if cache == "dynamic":
                raise
            print(f"whisper does without a {cache} cache: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return min(taken, key=lambda cache: taken[cache])
