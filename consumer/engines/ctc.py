"""wav2vec2 and its kin with a CTC head, made indifferent to batching.

Runs in the engine child. Three things make the usual batch differ from one chunk alone: normalising over padding,
group norm over padding, and no mask. Here each chunk is normalised by itself, the group norm sees each chunk's own
frames, and every batch is masked.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.repocard import metadata_load
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from consumer.core.ctc import FIELD_SAMPLES, FRAME_SAMPLES
from consumer.core.hearing import HeardChunk, ModelInfo, Pcm, Samples, to_samples
from consumer.core.model import SAMPLE_RATE
from schemas.models import EngineRef

MODEL_TYPES = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"})
"""Kinds that hear raw samples through wav2vec2's convolutions."""

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NORM_EPSILON = 1e-7
"""As Wav2Vec2FeatureExtractor has it."""
_SELF_CHECK_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Relative difference of a chunk's log-probabilities alone and beside a longer one. Rounding gives 1e-6, in bfloat16
up to 1e-2; a model that mixes its rows differs by a fifth."""


def load(model: str, *, revision: str | None, device: str, compute_type: str, threads: int) -> "CtcModel":
    """Load a model from the hub or a local folder, check that batching does not change what it hears, warm it up.

    ``device`` is ``cpu`` or ``cuda:<n>``; ``compute_type`` ``auto`` means bfloat16 on a GPU, float32 on a CPU;
    ``threads`` are the CPU's, 0: all cores. Raises ValueError where the model is not of a kind that this serves.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    if compute_type == "auto":
        compute_type = "bfloat16" if device.startswith("cuda") else "float32"
    if compute_type not in _TYPES:
        raise ValueError(f"compute_type {compute_type} is not available for ctc; use {' or '.join(_TYPES)}")
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: TF32 rounds differently in each batch size
    source: dict[str, Any] = {"revision": revision, "local_files_only": Path(model).is_dir()}
    network, report = AutoModelForCTC.from_pretrained(
        model, dtype=_TYPES[compute_type], output_loading_info=True, **source
    )
    _check_kind(model, network.config, report["missing_keys"])
    extractor = AutoFeatureExtractor.from_pretrained(model, **source)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"{model} hears {extractor.sampling_rate} Hz; only {SAMPLE_RATE} Hz is served")
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    symbols = {index: symbol for symbol, index in tokenizer.get_vocab().items()}
    info = ModelInfo(
        ref=EngineRef(
            name="ctc",
            model=model,
            revision=getattr(network.config, "_commit_hash", None) or revision,
            quantization=None if compute_type == "float32" else compute_type,
        ),
        languages=_languages(model, source),
        vocabulary=tuple(symbols.get(index, "") for index in range(network.config.vocab_size)),
        blank_id=tokenizer.pad_token_id,
        word_delimiter=tokenizer.word_delimiter_token or "",
    )
    loaded = CtcModel(network.to(device).eval(), info, normalise=extractor.do_normalize)
    loaded.check(_SELF_CHECK_TOLERANCE[compute_type])
    return loaded


def _check_kind(model: str, config: Any, missing_keys: list[str]) -> None:
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"{model} is a {config.model_type} model; engine ctc serves {', '.join(sorted(MODEL_TYPES))}")
    stride, field = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    if (stride, field) != (FRAME_SAMPLES, FIELD_SAMPLES) or getattr(config, "add_adapter", False):
        raise ValueError(f"{model} has frames of {stride} samples; only {FRAME_SAMPLES} without adapters are served")
    # what is missing would be random numbers; the training mask alone is not used here
    lacking = [key for key in missing_keys if not key.endswith("masked_spec_embed")]
    if lacking:
        raise ValueError(f"{model} lacks weights ({', '.join(sorted(lacking)[:3])}): it is not a fine-tuned CTC model")


def _languages(model: str, source: dict[str, Any]) -> tuple[str, ...] | None:
    """What the model card says; None where it says nothing, or something that is no code (``multilingual``)."""
    card = cached_file(
        model,
        "README.md",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **source,
    )
    said = ((metadata_load(card) if card else None) or {}).get("language")
    codes = [said] if isinstance(said, str) else said or []
    return tuple(str(code).lower() for code in codes if len(str(code)) in {2, 3}) or None


class ChunkwiseGroupNorm(nn.Module):
    """The feature encoder's group norm, over each chunk's own frames and not over its padding."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.frames: list[int] | None = None
        """Valid frames of each row; set before each batch. None: all are."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.frames is None:
            normed: torch.Tensor = self.norm(hidden)
            return normed
        for row, frames in enumerate(self.frames):
            # by rows, in place: the very kernel that one chunk alone goes through, and no second copy of the batch
            hidden[row, :, :frames] = self.norm(hidden[row : row + 1, :, :frames])[0]
        return hidden


class CtcModel:
    """A Model. ``recognise`` is for one caller at a time."""

    def __init__(self, network: Any, info: ModelInfo, *, normalise: bool) -> None:
        self.info = info
        self._network = network
        self._normalise = normalise
        self._first_kernel = int(network.config.conv_kernel[0])
        self._first_stride = int(network.config.conv_stride[0])
        self._norms = _replace_group_norms(network)
        _fold_weight_norms(network)

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:  # noqa: ARG002 (word times come with the frames; the model has its language)
        """Hear a batch: the best id and the certainty of each frame. Chunks below 400 samples have no frames.

        Raises ValueError where the model's numbers are not finite: samples that are no audio, or a broken model.
        """
        samples = [to_samples(chunk) for chunk in chunks]
        return [
            HeardChunk(frame_ids=ids, frame_confidence=confidence) for ids, confidence in self._best_of_frames(samples)
        ]

    @torch.inference_mode()
    def log_probabilities(self, chunks: list[Samples]) -> list[torch.Tensor]:
        """Log-probabilities of each chunk's frames in float32; shape (frames, symbols), on the model's device."""
        audible = [index for index, chunk in enumerate(chunks) if chunk.size >= FIELD_SAMPLES]
        nothing = torch.empty(0, self._network.config.vocab_size, device=self._network.device)
        answers = [nothing] * len(chunks)
        if not audible:
            return answers
        lengths = [int(chunks[index].size) for index in audible]
        values, mask = self._inputs([chunks[index] for index in audible], lengths)
        for norm in self._norms:
            norm.frames = [(length - self._first_kernel) // self._first_stride + 1 for length in lengths]
        logits = self._network(values, attention_mask=mask).logits
        # the softmax in float32, whatever the encoder computes in: bfloat16 has three digits
        scores = torch.log_softmax(logits.float(), dim=-1)
        for row, (index, length) in enumerate(zip(audible, lengths, strict=True)):
            frames = int(self._network._get_feat_extract_output_lengths(length))  # noqa: SLF001 (the model's own rule)
            answers[index] = scores[row, :frames]
        return answers

    def check(self, tolerance: float) -> None:
        """Warm up, and see that a chunk sounds the same alone and beside a longer one. Raises ValueError if not."""
        noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32) * 0.1
        chunks = [noise, noise[: SAMPLE_RATE * 3 // 4]]
        together, alone = self.log_probabilities(chunks)[1], self.log_probabilities(chunks[1:])[0]
        difference = float((together - alone).norm() / (alone - alone.mean()).norm())
        if not difference <= tolerance:  # so that a NaN fails too
            raise ValueError(
                f"{self.info.ref.model} hears a chunk differently in a batch (relative difference {difference:.2g}); "
                "it cannot be served"
            )

    @torch.inference_mode()
    def _best_of_frames(self, chunks: list[Samples]) -> list[tuple[np.ndarray, Samples]]:
        scores = self.log_probabilities(chunks)
        sizes = [int(score.shape[0]) for score in scores]
        joined = torch.cat(scores)
        entropy = -(joined.exp() * joined).sum(-1)
        certainty = (1.0 - entropy / np.log(joined.shape[-1])).clamp(0.0, 1.0)
        # one copy from the device for the whole batch
        ids = joined.argmax(-1).to(torch.int32).cpu().numpy()
        sure = certainty.cpu().numpy()
        if not np.isfinite(sure).all():
            raise ValueError(f"{self.info.ref.model} gave numbers that are not finite; look at the samples")
        ends = np.cumsum(sizes)[:-1]
        return list(zip(np.split(ids, ends), np.split(sure, ends), strict=True))

    def _inputs(self, chunks: list[Samples], lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded samples, each chunk normalised by itself, and their mask; shape (chunks, longest)."""
        padded = np.zeros((len(chunks), max(lengths)), np.float32)
        for row, chunk in zip(padded, chunks, strict=True):
            row[: chunk.size] = chunk
        device = self._network.device
        values = torch.from_numpy(padded).to(device)
        sizes = torch.tensor(lengths, device=device).unsqueeze(1)
        mask = torch.arange(values.shape[1], device=device).unsqueeze(0) < sizes
        if self._normalise:
            mean = values.sum(-1, keepdim=True) / sizes
            values = (values - mean) * mask
            deviation = (values.square().sum(-1, keepdim=True) / sizes + _NORM_EPSILON).sqrt()
            values = values / deviation
        return values.to(self._network.dtype), mask.long()


def _replace_group_norms(network: nn.Module) -> list[ChunkwiseGroupNorm]:
    """Put the chunkwise norm where the network norms over time; there is one, after the first convolution."""
    norms = []
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                norm = ChunkwiseGroupNorm(child)
                setattr(module, name, norm)
                norms.append(norm)
    return norms


def _fold_weight_norms(network: nn.Module) -> None:
    """Compute weight norms once, not in every forward pass."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
