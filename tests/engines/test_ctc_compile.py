"""Quicker ways to run the CTC network: the same words, one graph, kept only where they are quicker."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCTC

from consumer.engines import ctc_compile
from consumer.engines.ctc_compile import FixedShapes, compiled, quicker
from consumer.engines.ctc_network import CtcNetwork, Recogniser, Run, norm_own_frames_at_once
from tests.support import tiny_ctc
from tests.support.tiny_ctc import NormKind, babble

SHAPES = ((2, 8_000), (3, 16_000))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module", params=["group", "layer"])
def recogniser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    kind: NormKind = request.param
    folder = tiny_ctc.build(tmp_path_factory.mktemp("model"), kind)
    return Recogniser(AutoModelForCTC.from_pretrained(folder, dtype=torch.float32), normalise=True)


class Sleepy:
    """A way to run that takes its time."""

    def __init__(self, run: Run, seconds: float) -> None:
        self._run, self._seconds = run, seconds

    def __call__(self, samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        time.sleep(self._seconds)
        return self._run(samples, lengths)


def arithmetic(samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return samples.float().sin().sum(-1)


def quick(samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return torch.zeros(2, samples.shape[0], 1)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_the_network_is_one_graph_for_all_shapes_masked_and_one_unmasked(recogniser: Recogniser) -> None:
    """Captured as for the real compiler, run without making code of it: that takes half a minute."""
    graphs = []

    def backend(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(module)
        return module.forward

    run = torch.compile(recogniser, dynamic=True, fullgraph=True, backend=backend)
    with torch.inference_mode():
        for rows, samples in [(2, 9_000), (3, 16_000), (7, 21_234), (4, 5_000)]:
            noise = torch.randint(-3000, 3000, (rows, samples), dtype=torch.int16)
            for lengths in (None, torch.linspace(400, samples, rows).long()):
                assert torch.allclose(run(noise, lengths), recogniser(noise, lengths), atol=1e-3)
    assert len(graphs) == 2


@pytest.mark.patient
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_fused_group_norm_compiles_and_stays_what_it_is() -> None:
    """With the compiler that a GPU's network goes through, on the part that is ours."""
    norm = nn.GroupNorm(8, 8)
    hidden, frames = torch.randn(3, 8, 500), torch.tensor([500, 77, 321])
    with torch.inference_mode():
        right = norm_own_frames_at_once(norm, hidden, frames)
        made = torch.compile(norm_own_frames_at_once, dynamic=True, fullgraph=True)(norm, hidden, frames)
    for row, own in enumerate(frames.tolist()):
        assert torch.allclose(made[row, :, :own], right[row, :, :own], atol=1e-5)


def test_what_is_quicker_is_kept_and_said(caplog: pytest.LogCaptureFixture) -> None:
    slow = Sleepy(quick, 0.01)
    assert quicker(slow, quick, "cpu", shapes=SHAPES) is quick
    assert "compiled is kept" in caplog.text
    assert quicker(quick, slow, "cpu", shapes=SHAPES) is quick
    assert "eager is kept" in caplog.text


def test_a_network_that_cannot_be_compiled_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def broken(samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler here\nand a long story")

    assert quicker(quick, broken, "cpu", shapes=SHAPES) is quick
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no compiler here" in caplog.text
    assert "long story" not in caplog.text


def test_a_machine_without_a_compiler_runs_the_network_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert quicker(arithmetic, compiled(arithmetic), "cpu", shapes=SHAPES) is arithmetic
    assert "cannot be compiled here" in caplog.text


def replayed(delay: float) -> ctc_compile.Capture:
    """A capture without CUDA: the replay runs the network on what lies in the buffers."""

    def capture(run: Run, samples: torch.Tensor, lengths: torch.Tensor) -> Callable[[], torch.Tensor]:
        def replay() -> torch.Tensor:
            time.sleep(delay)
            return run(samples, lengths)

        return replay

    return capture


def test_batches_in_fixed_shapes_hear_the_same_and_count_their_padding(recogniser: Recogniser) -> None:
    usual = CtcNetwork(recogniser, "cpu")
    # the usual way is slow while the graphs are chosen, so that all are
    shapes = FixedShapes(Sleepy(recogniser, 0.0), "cpu", rows=(2, 4), samples=(16_000, 32_000), capture=never_slower)
    assert shapes.shapes == [(2, 16_000), (2, 32_000), (4, 16_000), (4, 32_000)]
    fixed = CtcNetwork(recogniser, "cpu", run=shapes)
    batches = [[1.0, 0.5], [0.7, 0.3, 0.4], [1.8], [2.0, 2.0, 2.0, 2.0]]
    for batch in batches:
        chunks = [babble(seconds, index) for index, seconds in enumerate(batch)]
        pcm = [(chunk * 32768).astype("int16") for chunk in chunks]
        for left, right in zip(fixed.recognise(pcm), usual.recognise(pcm), strict=True):
            assert left.ids.tolist() == right.ids.tolist()
            assert left.confidence == pytest.approx(right.confidence, abs=1e-4)
    asked = sum(len(batch) * int(max(batch) * 16_000) for batch in batches)
    assert shapes.asked_samples == asked
    assert shapes.computed_samples == 2 * 16_000 + 4 * 16_000 + 2 * 32_000 + 4 * 32_000


def never_slower(run: Run, samples: torch.Tensor, lengths: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Costs nothing while it is measured: the buffers hold silence then."""
    silence = torch.zeros(2, samples.shape[0], 1)
    return lambda: run(samples, lengths) if samples.any() else silence


def test_what_fits_no_fixed_shape_goes_the_usual_way(recogniser: Recogniser) -> None:
    shapes = FixedShapes(recogniser, "cpu", rows=(2,), samples=(16_000,), capture=never_slower)
    fixed = CtcNetwork(recogniser, "cpu", run=shapes)
    pcm = [(babble(seconds, 1) * 32768).astype("int16") for seconds in (1.5, 0.5)]
    assert [answer.ids.size for answer in fixed.recognise(pcm)] == [74, 24]
    assert [answer.ids.size for answer in fixed.recognise([pcm[1]] * 3)] == [24] * 3
    assert [answer.ids.size for answer in fixed.recognise([babble(0.5, 1)])] == [24]  # floats
    assert shapes.asked_samples == 0


def test_graphs_that_cost_more_than_they_save_are_not_kept() -> None:
    shapes = FixedShapes(quick, "cpu", rows=(1, 2), samples=(8_000,), capture=replayed(0.01))
    assert shapes.shapes == []
    shapes = FixedShapes(Sleepy(quick, 0.01), "cpu", rows=(1, 2), samples=(8_000,), capture=never_slower)
    assert shapes.shapes == [(1, 8_000), (2, 8_000)]
