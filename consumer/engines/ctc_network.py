"""wav2vec2 and its kin as a device runs them: from samples to the best symbol of each frame and how sure it is.

Three things make the usual batch differ from one chunk alone: normalising over padding, group norm over padding, and
no mask. Here each chunk is normalised by itself, the group norm sees each chunk's own frames, and a batch with padding
is masked. Needs torch, transformers and numpy only, so that it can be measured on a bare machine.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import parametrize

from consumer.core.frames import FIELD_SAMPLES, FRAME_SAMPLES, frame_count

Sound = npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""Mono, 16 kHz; int16 of full scale, or float32 within -1 to 1."""
Run = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""A Recogniser's ``forward``, as it is or made quicker."""

_FULL_SCALE = 32768.0
_NORM_EPSILON = 1e-7
"""As Wav2Vec2FeatureExtractor has it."""


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """What was heard in one chunk: the best id of each frame, and 1 minus its normalised entropy; shape (frames,)."""

    ids: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch that is on the device, or on its way there."""

    samples: torch.Tensor | None
    """Shape (rows, longest), padded with zeros; None where no chunk is long enough for a frame."""
    lengths: torch.Tensor | None
    """Samples of each row; None where all rows are full: such a batch needs no mask."""
    sizes: tuple[int, ...]
    """Samples of every chunk, those too short for a frame among them: they have no row."""
    copied: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that the device works on; ``answers`` has values once ``finished``."""

    answers: torch.Tensor | None
    sizes: tuple[int, ...]
    finished: torch.cuda.Event | None


class Recogniser(nn.Module):
    """The arithmetic from samples to answers: no copies, no waiting, one graph for a compiler."""

    def __init__(self, network: Any, *, normalise: bool) -> None:
        """``network``: a transformers model for CTC with wav2vec2's convolutions; its weight norms are folded."""
        super().__init__()
        self.network = network.eval()
        self.normalise = normalise
        config = network.config
        self._first_kernel, self._first_stride = int(config.conv_kernel[0]), int(config.conv_stride[0])
        self._group_norm = config.feat_extract_norm == "group"
        fold_weight_norms(network)

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Best ids and certainties, as float32 in one tensor of shape (2, rows, frames): one copy fetches both."""
        scores = self.log_probabilities(samples, lengths)
        certainty, ids = 1.0 + (scores.exp() * scores).sum(-1) / np.log(scores.shape[-1]), scores.argmax(-1)
        return torch.stack([ids.float(), certainty.clamp(0.0, 1.0)])

    def log_probabilities(self, samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """In float32, shape (rows, frames, symbols); what stands behind a row's own frames means nothing."""
        base = getattr(self.network, self.network.base_model_prefix)
        hidden = self._features(base, self._values(samples, lengths), lengths).transpose(1, 2)
        hidden = hidden.to(self.network.lm_head.weight.dtype)
        projected = base.feature_projection(hidden)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        mask = None
        if lengths is not None:
            frames = (lengths - FIELD_SAMPLES) // FRAME_SAMPLES + 1
            mask = torch.arange(hidden.shape[1], device=hidden.device) < frames.unsqueeze(1)
        logits = self.network.lm_head(base.encoder(hidden, attention_mask=mask).last_hidden_state)
        # the softmax in float32, whatever the encoder computes in: bfloat16 has three digits
        return torch.log_softmax(logits.float(), dim=-1)

    def _values(self, samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Float32 samples, each row normalised over its own length."""
        values = samples.float()
        if samples.dtype == torch.int16:
            values = values / _FULL_SCALE
        if not self.normalise:
            return values
        if lengths is None:
            values = values - values.mean(-1, keepdim=True)
            return values / (values.square().mean(-1, keepdim=True) + _NORM_EPSILON).sqrt()
        sizes = lengths.unsqueeze(1)
        own = torch.arange(values.shape[1], device=values.device) < sizes
        values = (values - values.sum(-1, keepdim=True) / sizes) * own
        return values / (values.square().sum(-1, keepdim=True) / sizes + _NORM_EPSILON).sqrt()

    def _features(self, base: Any, values: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """The convolutions; shape (rows, channels, frames). Padding reaches no frame of a row's own."""
        first, *others = base.feature_extractor.conv_layers
        hidden: torch.Tensor = values.to(first.conv.weight.dtype).unsqueeze(1)
        if self._group_norm and lengths is not None:
            frames = (lengths - self._first_kernel) // self._first_stride + 1
            hidden = first.activation(norm_own_frames(first.layer_norm, first.conv(hidden), frames))
        else:
            hidden = first(hidden)
        for layer in others:
            hidden = layer(hidden)
        return hidden


def norm_own_frames(norm: nn.GroupNorm, hidden: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Group norm with one channel in each group, over each row's first ``frames``; hidden: (rows, channels, time).

    On a CPU row by row in place: the very kernel that one chunk alone goes through, and no second copy of the batch.
    """
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        for row, own in zip(hidden, frames.tolist(), strict=True):
            row[:, :own] = norm(row[None, :, :own])[0]
        return hidden
    return norm_own_frames_at_once(norm, hidden, frames)


def norm_own_frames_at_once(norm: nn.GroupNorm, hidden: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The same in a few operations over the whole batch.

    The sums are of the next wider type. In it a square of the narrower type is exact, so that the difference of the
    mean square and the squared mean is as good as a second pass; and float64 sums of float32 come out the same after
    rounding, however long the padding is.
    """
    wide = torch.float64 if hidden.dtype == torch.float32 else torch.float32
    own = torch.arange(hidden.shape[-1], device=hidden.device) < frames[:, None, None]
    heard = torch.where(own, hidden, 0.0).to(wide)
    sizes = frames[:, None, None]
    mean = heard.sum(-1, keepdim=True) / sizes
    variance = (heard.square().sum(-1, keepdim=True) / sizes - mean.square()).clamp_min(0.0)
    scale = norm.weight[:, None] * (variance + norm.eps).rsqrt()
    shift = norm.bias[:, None] - mean * scale
    return (hidden.float() * scale.float() + shift.float()).to(hidden.dtype)


def fold_weight_norms(network: nn.Module) -> None:
    """Compute weight norms once, not in every forward pass; while the weights are float32 still."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


class CtcNetwork:
    """A Recogniser on its device, with the copies to and fro.

    ``stage`` may be called from another thread than the rest, so that the next batch travels while one is heard.
    """

    def __init__(self, recogniser: Recogniser, device: str, *, run: Run | None = None) -> None:
        """``recogniser`` is on ``device`` already; ``run`` is its ``forward``, made quicker."""
        self.recogniser = recogniser
        self.device = torch.device(device)
        self._run = run or recogniser
        self._buffers = PinnedBuffers() if self.device.type == "cuda" else None
        self._copies: torch.cuda.Stream | None = None
        self._staging = threading.Lock()
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def stage(self, chunks: Sequence[Sound]) -> Staged:
        """Send a batch to the device; returns before it has arrived."""
        with self._staging:
            return self._stage(chunks)

    def _stage(self, chunks: Sequence[Sound]) -> Staged:
        sizes = tuple(int(chunk.size) for chunk in chunks)
        audible = [chunk for chunk in chunks if chunk.size >= FIELD_SAMPLES]
        if not audible:
            return Staged(None, None, sizes, None)
        if any(chunk.dtype != np.int16 for chunk in audible):
            audible = [_as_float(chunk) for chunk in audible]
        counts = [int(chunk.size) for chunk in audible]
        shape, kind = (len(counts), max(counts)), torch.from_numpy(audible[0]).dtype
        host = torch.empty(shape, dtype=kind) if self._buffers is None else self._buffers.take(shape, kind)
        for row, chunk in zip(host.numpy(), audible, strict=True):
            row[: chunk.size] = chunk
            row[chunk.size :] = 0
        lengths = None if min(counts) == shape[1] else torch.tensor(counts)
        if self._buffers is None or self._copies is None:
            return Staged(host, lengths, sizes, None)
        with torch.cuda.stream(self._copies):
            samples = host.to(self.device, non_blocking=True)
            lengths = None if lengths is None else lengths.to(self.device)
            return Staged(samples, lengths, sizes, self._buffers.copied(self._copies))

    @torch.inference_mode()
    def launch(self, staged: Staged) -> Launched:
        """Have the device work on a batch; returns before it has done so, but on a CPU."""
        if staged.samples is None:
            return Launched(None, staged.sizes, None)
        if staged.copied is None:
            return Launched(self._run(staged.samples, staged.lengths), staged.sizes, None)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(staged.copied)
        for tensor in (staged.samples, staged.lengths):
            if tensor is not None:
                tensor.record_stream(stream)  # its memory belongs to the copying stream
        answers = self._run(staged.samples, staged.lengths).to("cpu", non_blocking=True)
        return Launched(answers, staged.sizes, stream.record_event())

    def collect(self, launched: Launched) -> list[FrameAnswer]:
        """Wait for a batch: one answer for each chunk, without frames for chunks below 400 samples.

        Raises ValueError where the network's numbers are not finite: samples that are no audio, or a broken model.
        """
        if launched.finished is not None:
            launched.finished.synchronize()
        rows = iter(()) if launched.answers is None else iter(launched.answers.numpy().transpose(1, 0, 2))
        answers = []
        for size in launched.sizes:
            frames = frame_count(size)
            ids, certainty = next(rows)[:, :frames] if frames else np.empty((2, 0), np.float32)
            if not np.isfinite(certainty).all():
                raise ValueError("the model gave numbers that are not finite; look at the samples")
            answers.append(FrameAnswer(ids.astype(np.int32), certainty.copy()))
        return answers

    def recognise(self, chunks: Sequence[Sound]) -> list[FrameAnswer]:
        """The three steps at once."""
        return self.collect(self.launch(self.stage(chunks)))

    @torch.inference_mode()
    def log_probabilities(self, chunks: Sequence[Sound]) -> list[torch.Tensor]:
        """Log-probabilities of each chunk's frames in float32; shape (frames, symbols), on the device."""
        staged = self.stage(chunks)
        nothing = torch.empty(0, self.recogniser.network.config.vocab_size, device=self.device)
        if staged.samples is None:
            return [nothing] * len(chunks)
        if staged.copied is not None:
            torch.cuda.current_stream(self.device).wait_event(staged.copied)
        rows = iter(self.recogniser.log_probabilities(staged.samples, staged.lengths))
        return [next(rows)[:frames] if (frames := frame_count(size)) else nothing for size in staged.sizes]


class PinnedBuffers:
    """Page-locked memory for the copies to a GPU, used in turn, so that one fills while the other travels."""

    def __init__(self, *, count: int = 2, pin: bool = True) -> None:
        self._memory = [torch.empty(0, dtype=torch.uint8) for _ in range(count)]
        self._copied: list[torch.cuda.Event | None] = [None] * count
        self._turn = 0
        self._pin = pin

    def take(self, shape: tuple[int, int], kind: torch.dtype) -> torch.Tensor:
        """The next buffer, once its last copy is over, grown where it is too small; holds what it held."""
        self._turn = (self._turn + 1) % len(self._memory)
        last = self._copied[self._turn]
        if last is not None:
            last.synchronize()
        size = shape[0] * shape[1] * kind.itemsize
        if self._memory[self._turn].numel() < size:
            # doubled, so that growing ends soon: pinning is slow
            self._memory[self._turn] = torch.empty(2 * size, dtype=torch.uint8, pin_memory=self._pin)
        return self._memory[self._turn][:size].view(kind).view(shape)

    def copied(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        """Mark the end of the copy from the buffer that was taken last."""
        event: torch.cuda.Event = stream.record_event()
        self._copied[self._turn] = event
        return event


def _as_float(chunk: Sound) -> Sound:
    if chunk.dtype == np.int16:
        return chunk.astype(np.float32) / np.float32(_FULL_SCALE)
    return chunk.astype(np.float32, copy=False)
