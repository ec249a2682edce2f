"""int8 for CTC on a CPU: which arithmetic it is, and how it lies in a folder.

Today it is ``torch.ao.quantization.quantize_dynamic`` on the Linear layers of the encoder, with a scale for each
output channel; torch has deprecated it, and torchao replaces it: this module is what changes then. The head and the
norms stay float32. Activations get one scale over the whole batch, so peers would change the text: whoever runs this
runs batches of one. Convolutions in bfloat16 join in where that is measured to be quicker on this chip.
"""

import copy
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.ao.nn.quantized import dynamic
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
from transformers import AutoConfig, AutoModelForCTC

from consumer.engines.ctc_network import fold_weight_norms

WEIGHTS_FILE = "int8.safetensors"
"""Its presence makes a folder a quantised one. Not transformers' own name: it would take the integers for weights."""
MODEL_TYPES = frozenset({"wav2vec2", "hubert", "unispeech", "unispeech-sat"})
"""WavLM's attention reads its Linear layers' float weights, so it cannot be quantised this way."""

_FORMAT = "earwitness ctc int8, version 1"
_SCALE = ".weight_scale"
"""Ends the names of the scales of a quantised layer."""
_TRIAL_SECONDS = 2
_WORTHWHILE = 1.1
"""How much quicker bfloat16 convolutions must be."""


def is_quantised(model: str) -> bool:
    """A folder that ``save`` wrote."""
    return (Path(model) / WEIGHTS_FILE).is_file()


def has_int8(network: Any) -> bool:
    """Some of its layers are quantised."""
    return any(isinstance(module, dynamic.Linear) for module in network.modules())


def quantise(network: Any) -> None:
    """In place, layer after layer, so that no second copy of the float weights is made. Weight norms are folded."""
    fold_weight_norms(network)
    with warnings.catch_warnings():
        _silence_deprecation()
        quantize_dynamic(  # type: ignore[no-untyped-call]
            network.base_model, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True
        )


def save(network: Any, folder: Path, *, model: str, revision: str | None) -> None:
    """Write a quantised network and its config; ``model`` and ``revision`` say what it was made of."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, dynamic.Linear):
            weight, bias = _unpacked(module)
            tensors[f"{name}.weight"] = weight.int_repr()
            tensors[name + _SCALE] = weight.q_per_channel_scales().float()  # as the kernels hold them
            tensors[f"{name}.bias"] = bias
        else:
            own = module.named_parameters(recurse=False)
            tensors.update({f"{name}.{key}".lstrip("."): value.detach().contiguous() for key, value in own})
            buffers = module.named_buffers(recurse=False)
            tensors.update({f"{name}.{key}".lstrip("."): value for key, value in buffers})
    made_of = json.dumps({"model": model, "revision": revision})
    network.config.save_pretrained(folder)
    # the weights last: a folder without them is not a quantised one
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": _FORMAT, "made_of": made_of})


def read(folder: Path) -> tuple[Any, str | None]:
    """The network that ``save`` wrote, and the revision that it was made of; float weights are never built.

    Raises ValueError for a file of another format, or one that does not fit its config.
    """
    with torch.device("meta"):
        network = AutoModelForCTC.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    fold_weight_norms(network)
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        about = file.metadata() or {}
        if about.get("format") != _FORMAT:
            raise ValueError(f"{folder / WEIGHTS_FILE} is not of the format {_FORMAT!r}; quantise the model again")
        linears = [name.removesuffix(_SCALE) for name in file.keys() if name.endswith(_SCALE)]  # noqa: SIM118 (no dict)
        parts = {name: [name + part for part in (".weight", _SCALE, ".bias")] for name in linears}
        rest = set(file.keys()) - {part for names in parts.values() for part in names}
        # these first: a quantised layer does not take a state in which its own part is missing
        network.load_state_dict({name: file.get_tensor(name).clone() for name in rest}, strict=False, assign=True)
        for name, names in parts.items():
            network.set_submodule(name, _packed(*(file.get_tensor(part) for part in names)))
    lacking = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    if [name for name in lacking if not name.endswith("masked_spec_embed")]:
        raise ValueError(f"{folder / WEIGHTS_FILE} lacks weights ({', '.join(lacking[:3])}); quantise the model again")
    return network.eval(), json.loads(about["made_of"])["revision"]


def _packed(weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    """A quantised Linear of int8 weights, shape (outputs, inputs), and their scales, shape (outputs,)."""
    with warnings.catch_warnings():
        _silence_deprecation()
        # one layer's float weights for a moment: quantising them again gives the very same integers
        floats = weight.float() * scales.unsqueeze(1)
        zeros = torch.zeros(scales.shape, dtype=torch.int64)
        linear = dynamic.Linear(  # type: ignore[no-untyped-call]
            weight.shape[1], weight.shape[0], dtype=torch.qint8
        )
        linear.set_weight_bias(torch.quantize_per_channel(floats, scales, zeros, 0, torch.qint8), bias)
    return linear


def _unpacked(linear: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight, quantised for each output, and bias."""
    weight, bias = linear._weight_bias()  # noqa: SLF001 (there is no public way to both)
    return weight, bias


def weight_bytes(network: Any) -> int:
    """What the weights of a network take, quantised or not."""
    total = 0
    for module in network.modules():
        if isinstance(module, dynamic.Linear):
            weight, bias = _unpacked(module)
            total += weight.numel() + 4 * weight.shape[0] + bias.nbytes
        total += sum(tensor.nbytes for tensor in module.parameters(recurse=False))
    return total


class InBfloat16(nn.Module):
    """A module that computes in bfloat16 among others that do not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.inner(hidden.bfloat16())
        return answer.to(hidden.dtype)


def quicken_convolutions(network: Any) -> bool:
    """Put the convolutions in bfloat16 where that is quicker here, as it is on chips with AVX512-BF16 or AMX."""
    base = network.base_model
    extractor, positions = base.feature_extractor, base.encoder.pos_conv_embed
    before = _trial_seconds(extractor, positions, torch.float32)
    convolve_in_bfloat16(network)
    after = _trial_seconds(base.feature_extractor, base.encoder.pos_conv_embed, torch.bfloat16)
    if before < _WORTHWHILE * after:
        base.feature_extractor, base.encoder.pos_conv_embed = extractor, positions
        return False
    return True


def convolve_in_bfloat16(network: Any) -> None:
    """Put bfloat16 copies of the convolutions in their place."""
    base = network.base_model
    base.feature_extractor = copy.deepcopy(base.feature_extractor).bfloat16()
    base.encoder.pos_conv_embed = InBfloat16(copy.deepcopy(base.encoder.pos_conv_embed))


@torch.inference_mode()
def _trial_seconds(extractor: Any, positions: Any, kind: torch.dtype) -> float:
    """The best of a few runs of the convolutions over a short sound."""
    sound = torch.randn(1, _TRIAL_SECONDS * 16_000, dtype=kind)
    width = next(module.in_channels for module in positions.modules() if isinstance(module, nn.Conv1d))
    best = float("inf")
    for _ in range(4):  # the first one also prepares the kernels
        began = time.perf_counter()
        frames = extractor(sound).shape[-1]
        positions(torch.zeros(1, frames, width))
        best = min(best, time.perf_counter() - began)
    return best


def _silence_deprecation() -> None:
    """This module's docstring says what there is to say about these; others stay audible."""
    warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*quint8.*", category=UserWarning)
