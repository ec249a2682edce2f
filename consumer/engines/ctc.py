"""CTC models behind the Model protocol: loaded by hub id or from a folder, in the best arithmetic for the device.

Runs in the engine child. The network itself, and why batching does not change what it hears, is in ``ctc_network``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.repocard import metadata_load
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from consumer.core.frames import FIELD_SAMPLES, FRAME_SAMPLES
from consumer.core.hearing import HeardChunk, ModelInfo
from consumer.core.model import SAMPLE_RATE
from consumer.engines import ctc_compile, ctc_int8
from consumer.engines.ctc_network import CtcNetwork, Recogniser, Run, Sound, Staged
from schemas.models import EngineRef

MODEL_TYPES = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"})
"""Kinds that hear raw samples through wav2vec2's convolutions."""

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SELF_CHECK_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Relative difference of a chunk's log-probabilities alone and beside a longer one. Rounding gives 1e-6, in bfloat16
up to 1e-2; a model that mixes its rows differs by a fifth."""


def load(
    model: str, *, revision: str | None, device: str, compute_type: str, threads: int, cuda_graphs: bool = False
) -> "CtcModel":
    """Load a model from the hub or a local folder, check that batching does not change what it hears, warm it up.

    ``device`` is ``cpu`` or ``cuda:<n>``; ``compute_type`` ``auto`` means bfloat16 on a GPU, int8 on a CPU (float32
    for a kind that cannot be quantised); ``threads`` are the CPU's, 0: all cores. ``cuda_graphs`` tries them on a
    GPU. Raises ValueError where the model is not of a kind that this serves.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: TF32 rounds differently in each batch size
    source: dict[str, Any] = {"revision": revision, "local_files_only": Path(model).is_dir()}
    config = AutoConfig.from_pretrained(model, **source)
    check_kind(model, config)
    kind = compute_type_of(compute_type, model, config.model_type, device)
    extractor = AutoFeatureExtractor.from_pretrained(model, **source)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"{model} hears {extractor.sampling_rate} Hz; only {SAMPLE_RATE} Hz is served")
    if ctc_int8.is_quantised(model):
        network, made_of = ctc_int8.read(Path(model))
        revision = revision or made_of
    else:
        network = load_float32(model, source)
    if kind == "int8":
        kind = _to_int8(network)
    recogniser = Recogniser(network, normalise=extractor.do_normalize)
    if kind in _FLOATS:
        recogniser.to(device=device, dtype=_FLOATS[kind])
    loaded = CtcModel(
        CtcNetwork(recogniser, device, run=_quickest(recogniser, device, cuda_graphs=cuda_graphs)),
        _info(model, config, revision, kind, source),
    )
    loaded.check(_SELF_CHECK_TOLERANCE.get(kind))
    return loaded


def load_float32(model: str, source: dict[str, Any]) -> Any:
    """transformers' network with all its weights. Raises ValueError where some are missing."""
    network, report = AutoModelForCTC.from_pretrained(model, dtype=torch.float32, output_loading_info=True, **source)
    # what is missing would be random numbers; the training mask alone is not used here
    lacking = [key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")]
    if lacking:
        raise ValueError(f"{model} lacks weights ({', '.join(sorted(lacking)[:3])}): it is not a fine-tuned CTC model")
    return network.eval()


def check_kind(model: str, config: Any) -> None:
    if config.model_type not in MODEL_TYPES:
        raise ValueError(f"{model} is a {config.model_type} model; engine ctc serves {', '.join(sorted(MODEL_TYPES))}")
    stride, field = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    if (stride, field) != (FRAME_SAMPLES, FIELD_SAMPLES) or getattr(config, "add_adapter", False):
        raise ValueError(f"{model} has frames of {stride} samples; only {FRAME_SAMPLES} without adapters are served")


def compute_type_of(wanted: str, model: str, model_type: str, device: str) -> str:
    """``int8``, ``bfloat16`` or ``float32``. Raises ValueError where the wish cannot be fulfilled."""
    on_cpu = device == "cpu"
    if ctc_int8.is_quantised(model):
        if wanted not in ("auto", "int8") or not on_cpu:
            raise ValueError(f"{model} is quantised to int8: it runs on a CPU, with compute_type auto or int8")
        return "int8"
    can_int8 = on_cpu and model_type in ctc_int8.MODEL_TYPES
    if wanted == "auto":
        return "int8" if can_int8 else "float32" if on_cpu else "bfloat16"
    if wanted == "int8" and not can_int8:
        where = f"a {model_type} model" if on_cpu else f"device {device}: it is for CPUs"
        raise ValueError(f"compute_type int8 is not available for {where}; use auto or one of {', '.join(_FLOATS)}")
    if wanted not in ("int8", *_FLOATS):
        raise ValueError(f"compute_type {wanted} is not available for ctc; use int8 or one of {', '.join(_FLOATS)}")
    return wanted


def _to_int8(network: Any) -> str:
    """Quantise a network, unless it is already; what runs then: ``int8`` or ``int8+bfloat16``."""
    if not ctc_int8.has_int8(network):
        ctc_int8.quantise(network)
    return "int8+bfloat16" if ctc_int8.quicken_convolutions(network) else "int8"


def _quickest(recogniser: Recogniser, device: str, *, cuda_graphs: bool) -> Run:
    """On a GPU what was measured to be quickest; on a CPU as it is: compiling takes minutes there."""
    if not device.startswith("cuda"):
        return recogniser
    run = ctc_compile.quicker(recogniser, ctc_compile.compiled(recogniser), device)
    return ctc_compile.FixedShapes(run, device) if cuda_graphs else run


def _info(model: str, config: Any, revision: str | None, kind: str, source: dict[str, Any]) -> ModelInfo:
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    symbols = {index: symbol for symbol, index in tokenizer.get_vocab().items()}
    return ModelInfo(
        ref=EngineRef(
            name="ctc",
            model=model,
            revision=getattr(config, "_commit_hash", None) or revision,
            quantization=None if kind == "float32" else kind,
        ),
        languages=_languages(model, source),
        vocabulary=tuple(symbols.get(index, "") for index in range(config.vocab_size)),
        blank_id=tokenizer.pad_token_id,
        word_delimiter=tokenizer.word_delimiter_token or "",
        # activations get one scale over the whole batch, so that peers would change the text
        max_batch_chunks=1 if kind.startswith("int8") else None,
    )


def _languages(model: str, source: dict[str, Any]) -> tuple[str, ...] | None:
    """What the model card says; None where it says nothing, or something that is no code (``multilingual``)."""
    card = model_card(model, source)
    said = ((metadata_load(card) if card else None) or {}).get("language")
    codes = [said] if isinstance(said, str) else said or []
    return tuple(str(code).lower() for code in codes if len(str(code)) in {2, 3}) or None


def model_card(model: str, source: dict[str, Any]) -> str | None:
    """Path of the model's README.md; None where it has none."""
    path: str | None = cached_file(
        model,
        "README.md",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **source,
    )
    return path


class CtcModel:
    """A Model. All but ``stage`` is for one caller at a time."""

    def __init__(self, network: CtcNetwork, info: ModelInfo) -> None:
        self.info = info
        self.network = network

    def recognise(
        self,
        chunks: Sequence[Sound],
        languages: Sequence[str | None],  # noqa: ARG002 (the model has its language)
        words: Sequence[bool],  # noqa: ARG002 (word times come with the frames)
    ) -> list[HeardChunk]:
        """Hear a batch: the best id and the certainty of each frame. Chunks below 400 samples have no frames.

        A batch larger than ``info.max_batch_chunks`` is heard in several. Raises ValueError where the model's numbers
        are not finite: samples that are no audio, or a broken model.
        """
        return [heard for part in self._parts(chunks) for heard in self.recognise_staged(self.stage(part))]

    def stage(self, chunks: Sequence[Sound]) -> Staged:
        """Send a batch to the device ahead of its turn; may be called from another thread than the rest."""
        return self.network.stage(chunks)

    def recognise_staged(self, staged: Staged) -> list[HeardChunk]:
        """As ``recognise``, of a batch that is within ``info.max_batch_chunks``."""
        answers = self.network.collect(self.network.launch(staged))
        return [HeardChunk(frame_ids=answer.ids, frame_confidence=answer.confidence) for answer in answers]

    def log_probabilities(self, chunks: Sequence[Sound]) -> list[torch.Tensor]:
        """Log-probabilities of each chunk's frames in float32; shape (frames, symbols), on the model's device."""
        return [scores for part in self._parts(chunks) for scores in self.network.log_probabilities(part)]

    def warm_up(self, lengths_seconds: Sequence[float]) -> None:
        """Hear a batch of each length, with padding and without, so that no caller waits for what is made once.

        On a CPU nothing is made for a length, and a minute of start would buy nothing: its load has heard a batch.
        """
        if self.network.device.type == "cpu":
            return
        for seconds in lengths_seconds:
            full = np.zeros(int(seconds * SAMPLE_RATE), np.int16)
            for peer in (full, full[: full.size * 3 // 4]):
                self.recognise([full, peer], [None] * 2, [False] * 2)

    def check(self, tolerance: float | None) -> None:
        """Warm up, and see that a chunk sounds the same alone and beside a longer one. Raises ValueError if not.

        Without a tolerance the two must be equal.
        """
        noise = (np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE) * 3000).astype(np.int16)
        chunks = [noise, noise[: SAMPLE_RATE * 3 // 4]]
        together, alone = self.log_probabilities(chunks)[1], self.log_probabilities(chunks[1:])[0]
        difference = float((together - alone).norm() / (alone - alone.mean()).norm())
        if not difference <= (tolerance or 0.0):  # so that a NaN fails too
            raise ValueError(
                f"{self.info.ref.model} hears a chunk differently in a batch (relative difference {difference:.2g}); "
                "it cannot be served"
            )

    def _parts(self, chunks: Sequence[Sound]) -> list[Sequence[Sound]]:
        size = self.info.max_batch_chunks or max(len(chunks), 1)
        return [chunks[first : first + size] for first in range(0, len(chunks), size)]
