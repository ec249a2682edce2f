"""The CTC network by itself: what is heard depends on no peer, no padding, no way of running it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCTC

from consumer.core.frames import frame_count
from consumer.core.hearing import Samples
from consumer.engines import ctc_network
from consumer.engines.ctc_network import CtcNetwork, PinnedBuffers, Recogniser, Sound
from tests.support import tiny_ctc
from tests.support.tiny_ctc import NormKind, babble

ROOT = Path(__file__).parents[2]
KINDS: tuple[NormKind, ...] = ("group", "layer")
lengths_samples = st.lists(st.integers(400, 40_000), min_size=2, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(folder: Path, kind: torch.dtype = torch.float32, *, normalise: bool = True) -> CtcNetwork:
    loaded = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
    return CtcNetwork(Recogniser(loaded, normalise=normalise).to(dtype=kind), "cpu")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ctc.build(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def exact(folder: Path) -> CtcNetwork:
    return network(folder)


@pytest.fixture(scope="module")
def short(folder: Path) -> CtcNetwork:
    return network(folder, torch.bfloat16)


def sounds(lengths: list[int]) -> list[Samples]:
    return [babble(5.0, index)[:length] for index, length in enumerate(lengths)]


def as_pcm(chunk: Samples) -> Sound:
    return np.round(chunk * 32768).astype(np.int16)


@given(lengths_samples)
@settings(max_examples=8, derandomize=True)
def test_float32_hears_the_same_tokens_alone_and_in_any_batch(exact: CtcNetwork, lengths: list[int]) -> None:
    chunks = sounds(lengths)
    for chunk, scores, answer in zip(chunks, exact.log_probabilities(chunks), exact.recognise(chunks), strict=True):
        alone = exact.log_probabilities([chunk])[0]
        assert alone.shape == scores.shape
        assert float((alone - scores).abs().max()) < 1e-4
        assert np.array_equal(answer.ids, exact.recognise([chunk])[0].ids)


@given(lengths_samples)
@settings(max_examples=6, derandomize=True)
def test_padding_does_not_reach_the_fused_group_norm_either(exact: CtcNetwork, lengths: list[int]) -> None:
    chunks = sounds(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc_network, "norm_own_frames", ctc_network.norm_own_frames_at_once)
        together = exact.log_probabilities(chunks)
    for chunk, scores in zip(chunks, together, strict=True):
        assert float((exact.log_probabilities([chunk])[0] - scores).abs().max()) < 1e-4


@given(lengths_samples)
@settings(max_examples=6, derandomize=True)
def test_bfloat16_hears_the_same_tokens_wherever_its_rounding_cannot_decide(
    exact: CtcNetwork, short: CtcNetwork, lengths: list[int]
) -> None:
    """Wherever float32's two best symbols are further apart than twice the worst error of bfloat16 alone."""
    chunks = sounds(lengths)
    for chunk, together in zip(chunks, short.log_probabilities(chunks), strict=True):
        right, alone = exact.log_probabilities([chunk])[0], short.log_probabilities([chunk])[0]
        best = right.topk(2, dim=-1).values
        sure = best[:, 0] - best[:, 1] > 2 * (alone - right).abs().max()
        assert torch.equal(together.argmax(-1)[sure], right.argmax(-1)[sure])
        assert float((together - alone).norm() / alone.norm()) < 0.05


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_fused_group_norm_is_the_usual_one_over_a_rows_own_frames(kind: torch.dtype) -> None:
    torch.manual_seed(1)
    norm = nn.GroupNorm(64, 64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    frames = torch.tensor([1000, 137, 999])
    # far from zero on average, which is where a sum of squares would lose its digits
    hidden = (torch.randn(3, 64, 1000) + 3.0).to(kind)
    normed = ctc_network.norm_own_frames_at_once(norm, hidden, frames).detach()
    assert normed.dtype == kind
    for row, own in enumerate(frames.tolist()):
        right = norm(hidden[row : row + 1, :, :own].float())[0].detach()
        assert float((normed[row, :, :own].float() - right).abs().max()) < (1e-5 if kind == torch.float32 else 0.05)


def test_the_fused_group_norm_rounds_the_same_however_long_the_padding_is() -> None:
    torch.manual_seed(2)
    norm = nn.GroupNorm(64, 64)
    own = torch.randn(1, 64, 3333)
    frames = torch.tensor([3333])
    alone = ctc_network.norm_own_frames_at_once(norm, own, frames)
    for padding in (1, 77, 3333, 20_000):
        padded = torch.cat([own, torch.randn(1, 64, padding)], dim=-1)
        assert torch.equal(ctc_network.norm_own_frames_at_once(norm, padded, frames)[..., :3333], alone), padding
    assert alone.isfinite().all()


def test_full_chunks_of_one_length_go_without_a_mask_and_hear_the_same(exact: CtcNetwork) -> None:
    chunks = sounds([48_000] * 3)
    staged = exact.stage(chunks)
    assert staged.lengths is None
    assert exact.stage([chunks[0], chunks[1][:47_999]]).lengths is not None
    assert staged.samples is not None
    with torch.inference_mode():
        masked = exact.recogniser.log_probabilities(staged.samples, torch.tensor([48_000] * 3))
        plain = exact.recogniser.log_probabilities(staged.samples, None)
    assert float((masked - plain).abs().max()) < 1e-4


def test_sixteen_bits_are_heard_as_the_floats_that_they_stand_for(folder: Path) -> None:
    """Also where the model takes samples as they are, so that the scale counts."""
    chunks = sounds([20_000, 9_000])
    pcm = [as_pcm(chunk) for chunk in chunks]
    floats: list[Sound] = [(chunk / 32768).astype(np.float32) for chunk in pcm]
    for normalise in (True, False):
        taken = network(folder, normalise=normalise)
        mixed = taken.log_probabilities([pcm[0], floats[1]])
        for left, right, both in zip(taken.log_probabilities(pcm), taken.log_probabilities(floats), mixed, strict=True):
            assert float((left - right).abs().max()) < 1e-4
            assert float((left - both).abs().max()) < 1e-4


def test_certainty_is_one_minus_the_normalised_entropy(exact: CtcNetwork) -> None:
    (chunk,) = sounds([16_000])
    (scores,) = exact.log_probabilities([chunk])
    entropy = -(scores.exp() * scores).sum(-1)
    (answer,) = exact.recognise([chunk])
    assert np.allclose(answer.confidence, 1 - (entropy / np.log(scores.shape[-1])).numpy(), atol=1e-5)
    assert np.array_equal(answer.ids, scores.argmax(-1).numpy())


def test_a_batch_may_be_staged_while_another_is_under_way(exact: CtcNetwork) -> None:
    first, second = sounds([16_000, 30_000]), sounds([52_000, 399, 8_000])
    launched = exact.launch(exact.stage(first))
    staged = exact.stage(second)
    heard = [*exact.collect(launched), *exact.collect(exact.launch(staged))]
    assert [answer.ids.size for answer in heard] == [frame_count(chunk.size) for chunk in [*first, *second]]
    for answer, alone in zip(heard, [exact.recognise([chunk])[0] for chunk in [*first, *second]], strict=True):
        assert np.array_equal(answer.ids, alone.ids)


class Copy:
    """A copy to a GPU that ends when it is waited for."""

    def __init__(self) -> None:
        self.waited = False

    def synchronize(self) -> None:
        self.waited = True

    def record_event(self) -> "Copy":
        return self


def test_a_staging_buffer_is_filled_anew_only_once_its_copy_is_over() -> None:
    buffers = PinnedBuffers(count=2, pin=False)
    copies = []
    taken = []
    for _ in range(3):
        host = buffers.take((2, 100), torch.int16)
        taken.append(host.data_ptr())
        copies.append(Copy())
        assert not copies[-1].waited
        buffers.copied(copies[-1])  # type: ignore[arg-type]
    assert taken[0] == taken[2] != taken[1]
    assert [copy.waited for copy in copies] == [True, False, False]
    grown = buffers.take((4, 1000), torch.float32)
    assert grown.shape == (4, 1000)
    assert grown.is_contiguous()


def test_the_network_needs_torch_transformers_and_numpy_alone() -> None:
    """So that it can be measured on a machine that has nothing else."""
    script = (
        "import sys\n"
        "for name in ('pydantic', 'aiokafka', 'orjson', 'librosa', 'soundfile', 'av', 'opentelemetry'):\n"
        "    sys.modules[name] = None\n"
        "import consumer.engines.ctc_network, consumer.engines.ctc_compile\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('consumer', 'schemas', 'producer')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == [
        "consumer", "consumer.core", "consumer.core.frames",
        "consumer.engines", "consumer.engines.ctc_compile", "consumer.engines.ctc_network",
    ]  # fmt: skip
