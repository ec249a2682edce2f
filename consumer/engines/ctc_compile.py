"""Quicker ways to run the CTC network, each kept only where it was measured to be quicker on this machine.

Needs torch only, like ``ctc_network``.
"""

import bisect
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from consumer.core.frames import FIELD_SAMPLES, FRAME_SAMPLES, frame_count
from consumer.engines.ctc_network import Run

SECOND = 50 * FRAME_SAMPLES
"""Samples."""
TIMED_SHAPES = ((16, 6 * SECOND), (8, 20 * SECOND))
"""Rows and samples of what a busy engine hears: short prompts, and full chunks of long recordings."""
GRAPH_ROWS = (1, 4, 16)
GRAPH_SAMPLES = tuple(seconds * SECOND for seconds in (2, 4, 6, 8, 12, 20))

Capture = Callable[[Run, torch.Tensor, torch.Tensor], Callable[[], torch.Tensor]]
"""Makes a replay of ``run`` on two tensors that it reads anew each time."""

_REPEATS = 3

log = logging.getLogger(__name__)


def compiled(run: Run) -> Run:
    """One graph for every shape; it is made at the first call, which raises TorchDynamoException where it cannot be."""
    return cast(Run, torch.compile(run, dynamic=True, fullgraph=True))


@torch.inference_mode()
def quicker(eager: Run, other: Run, device: str, *, shapes: Sequence[tuple[int, int]] = TIMED_SHAPES) -> Run:
    """``other`` where it runs here and beats ``eager`` on these shapes, padded and full; else ``eager``. Logged."""
    batches = [batch for rows, samples in shapes for batch in _batches(rows, samples, device)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks on transformers' code
            for batch in batches:
                other(*batch)  # compiles
    except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 (its only public name)
        log.warning("ctc network stays eager: it cannot be compiled here (%s)", str(error).strip().split("\n")[0])
        return eager
    took = {run: sum(_seconds(run, *batch, device=device) for batch in batches) for run in (eager, other)}
    kept = min(took, key=lambda run: took[run])
    log.warning(
        "ctc network eager %.1f ms, compiled %.1f ms: %s is kept",
        took[eager] * 1000, took[other] * 1000, "eager" if kept is eager else "compiled",
    )  # fmt: skip
    return kept


def _batches(rows: int, samples: int, device: str) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """One batch of full rows, one with padding."""
    noise = torch.randint(-3000, 3000, (rows, samples), dtype=torch.int16, device=device)
    lengths = torch.linspace(samples * 3 // 4, samples, rows, device=device).long()
    return [(noise, None), (noise, lengths)]


def _seconds(run: Run, samples: torch.Tensor, lengths: torch.Tensor | None, *, device: str) -> float:
    """The best of a few runs, device and host together."""
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        began = time.perf_counter()
        run(samples, lengths)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class _Graph:
    samples: torch.Tensor
    lengths: torch.Tensor
    replay: Callable[[], torch.Tensor]


class FixedShapes:
    """Batches in captured CUDA graphs of fixed shapes, padded up to them; what fits none goes the usual way.

    Made for a device that waits for its host on small batches. A graph is kept only where it is quicker on its whole
    shape than the usual way is on the middle of what the graph would be used for: its own padding counts.
    """

    def __init__(
        self,
        run: Run,
        device: str,
        *,
        rows: Sequence[int] = GRAPH_ROWS,
        samples: Sequence[int] = GRAPH_SAMPLES,
        capture: Capture | None = None,
    ) -> None:
        """Captures and measures. ``capture`` is CUDA's unless a test brings its own."""
        self._run = run
        self._device = device
        self._rows, self._samples = sorted(rows), sorted(samples)
        self._capture = capture or _capture_cuda
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self.asked_samples = 0
        """Samples of the batches that went through graphs, as they came."""
        self.computed_samples = 0
        """What the graphs made of them: the ratio is the graphs' own padding."""
        self._choose()
        log.warning("ctc network has %d CUDA graphs of %d tried", len(self._graphs), len(rows) * len(samples))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and samples of the graphs that were kept."""
        return sorted(self._graphs)

    @torch.inference_mode()
    def __call__(self, samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """As the Recogniser's ``forward``."""
        rows, longest = samples.shape
        graph = self._graphs.get((_up(self._rows, rows), _up(self._samples, longest)))
        if graph is None or samples.dtype != graph.samples.dtype:
            return self._run(samples, lengths)
        self.asked_samples += samples.numel()
        self.computed_samples += graph.samples.numel()
        graph.samples.zero_()
        graph.samples[:rows, :longest] = samples
        graph.lengths.fill_(FIELD_SAMPLES)  # rows that are padding hear one frame: a softmax over none is no number
        graph.lengths[:rows] = longest if lengths is None else lengths
        return graph.replay()[:, :rows, : frame_count(longest)].clone()

    @torch.inference_mode()
    def _choose(self) -> None:
        for rows, fewer in zip(self._rows, [0, *self._rows], strict=False):
            for longest, shorter in zip(self._samples, [0, *self._samples], strict=False):
                held = torch.zeros((rows, longest), dtype=torch.int16, device=self._device)
                lengths = torch.full((rows,), longest, device=self._device)
                graph = _Graph(held, lengths, self._capture(self._run, held, lengths))
                middle = ((rows + fewer + 1) // 2, (longest + shorter) // 2)
                usual = min(
                    _seconds(self._run, *batch, device=self._device) for batch in _batches(*middle, self._device)
                )
                if _seconds(lambda *_, graph=graph: graph.replay(), held, lengths, device=self._device) < usual:
                    self._graphs[rows, longest] = graph


def _up(steps: Sequence[int], value: int) -> int:
    """The lowest step that holds the value; -1: none does."""
    place = bisect.bisect_left(steps, value)
    return steps[place] if place < len(steps) else -1


def _capture_cuda(run: Run, samples: torch.Tensor, lengths: torch.Tensor) -> Callable[[], torch.Tensor]:
    """As torch's notes on CUDA graphs say: warmed up on a side stream, then captured."""
    side = torch.cuda.Stream(samples.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(samples.device))
    with torch.cuda.stream(side):
        run(samples, lengths)
    torch.cuda.current_stream(samples.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = run(samples, lengths)

    def replay() -> torch.Tensor:
        graph.replay()
        return answers

    return replay
