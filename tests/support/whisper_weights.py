"""OpenAI's Whisper tiny.en for tests, in both layouts: CTranslate2's, and Hugging Face's made from it."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor

from compose.tiny_en import ct2_tiny_en as ct2_tiny_en

CACHE = Path(".earwitness/test-cache")

Half = npt.NDArray[np.float16]
_HALF = 4
"""CTranslate2's number for float16."""


def hf_tiny_en(folder: Path = CACHE) -> Path:
    """The same weights as transformers reads them; made once under ``folder`` (75 MB)."""
    return _made_once(folder / "whisper-tiny.en", _write)


def hf_as_if_multilingual(folder: Path = CACHE) -> Path:
    """The same weights with one symbol more, which is how Whisper tells that a model knows many languages."""
    return _made_once(folder / "whisper-tiny-many", lambda target: _write(target, extra_symbol=True))


def ct2_as_if_multilingual(folder: Path = CACHE) -> Path:
    """Likewise, for CTranslate2."""
    return _made_once(folder / "whisper-tiny-many-ct2", _write_ct2_with_extra_symbol)


def _made_once(target: Path, write: Callable[[Path], None]) -> Path:
    if (target / "complete").exists():
        return target
    made = target.with_name(f"{target.name}.{os.getpid()}")
    made.mkdir(parents=True)
    write(made)
    (made / "complete").touch()
    try:
        made.rename(target)
    except OSError:  # another test process was quicker
        shutil.rmtree(made)
    return target


def _write(target: Path, *, extra_symbol: bool = False) -> None:
    described = json.loads((ct2_tiny_en() / "config.json").read_text())
    tensors = dict(_renamed(dict(_arrays())))
    if extra_symbol:
        embedding = tensors["model.decoder.embed_tokens.weight"]
        tensors["model.decoder.embed_tokens.weight"] = np.concatenate([embedding, embedding[-1:]])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(ct2_tiny_en() / "tokenizer.json", target)
    WhisperFeatureExtractor().save_pretrained(target)
    config = WhisperConfig(
        vocab_size=len(tensors["model.decoder.embed_tokens.weight"]),
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
        architectures=["WhisperForConditionalGeneration"],
    )
    config.save_pretrained(target)
    generation = {
        "alignment_heads": described["alignment_heads"],
        "begin_suppress_tokens": described["suppress_ids_begin"],
        "suppress_tokens": described["suppress_ids"],
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": 50256,
        "decoder_start_token_id": 50257,
        "is_multilingual": False,
        "max_length": 448,
        "no_timestamps_token_id": 50362,
    }
    (target / "generation_config.json").write_text(json.dumps(generation))


def _write_ct2_with_extra_symbol(target: Path) -> None:
    shutil.copytree(ct2_tiny_en(), target, dirs_exist_ok=True)
    with (target / "vocabulary.txt").open("a") as file:
        file.write("\n<|30.02|>")
    described = json.loads((target / "config.json").read_text())
    described["lang_ids"] = [index - 1 for index in described["lang_ids"]]  # the English tokenizer's
    (target / "config.json").write_text(json.dumps(described))
    data = (target / "model.bin").read_bytes()
    [(shape, start, size)] = [place[1:] for place in _places() if place[0] == "decoder/embeddings/weight"]
    header = struct.pack("<IIBI", shape[0] + 1, shape[1], _HALF, size + shape[1] * 2)
    body = data[start : start + size]
    whole = [data[: start - len(header)], header, body, body[-shape[1] * 2 :], data[start + size :]]
    (target / "model.bin").write_bytes(b"".join(whole))


def _arrays() -> Iterator[tuple[str, Half]]:
    data = (ct2_tiny_en() / "model.bin").read_bytes()
    for name, shape, start, size in _places():
        yield name, np.frombuffer(data[start : start + size], np.float16).reshape(shape)


def _places() -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, offset and bytes of the float16 arrays of ``model.bin``; its scalars are left out."""
    with (ct2_tiny_en() / "model.bin").open("rb") as file:
        _numbers(file, "<I")
        _text(file)
        _, count = _numbers(file, "<II")
        for _ in range(count):
            name = _text(file)
            (rank,) = _numbers(file, "<B")
            shape = _numbers(file, f"<{rank}I")
            kind, size = _numbers(file, "<BI")
            start = file.tell()
            file.seek(size, os.SEEK_CUR)
            if kind == _HALF:
                yield name, shape, start, size


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "<H")
    return file.read(length)[:-1].decode()


def _renamed(arrays: dict[str, Half]) -> Iterator[tuple[str, Half]]:
    """transformers' names; fused projections come apart, and key biases, which are zero, go."""
    for name, array in arrays.items():
        side, _, rest = name.partition("/")
        parts = rest.split("/")
        if parts[0] in ("conv1", "conv2"):
            yield f"model.{side}.{parts[0]}.{parts[1]}", array
        elif parts[0] == "embeddings":
            yield f"model.{side}.embed_tokens.weight", array
        elif parts[0] == "position_encodings":
            yield f"model.{side}.embed_positions.weight", array
        elif parts[0] == "layer_norm":
            yield f"model.{side}.layer_norm.{_NORM[parts[1]]}", array
        else:
            yield from _layer(f"model.{side}.layers.{parts[0].removeprefix('layer_')}", parts[1:], array)


_NORM = {"gamma": "weight", "beta": "bias"}
_BLOCK = {"self_attention": "self_attn", "attention": "encoder_attn"}
_FUSED = {
    ("self_attention", "linear_0"): ("q_proj", "k_proj", "v_proj"),
    ("self_attention", "linear_1"): ("out_proj",),
    ("attention", "linear_0"): ("q_proj",),
    ("attention", "linear_1"): ("k_proj", "v_proj"),
    ("attention", "linear_2"): ("out_proj",),
}


def _layer(prefix: str, parts: list[str], array: Half) -> Iterator[tuple[str, Half]]:
    block, piece, kind = parts
    if block == "ffn":
        if piece == "layer_norm":
            yield f"{prefix}.final_layer_norm.{_NORM[kind]}", array
        else:
            yield f"{prefix}.{'fc1' if piece == 'linear_0' else 'fc2'}.{kind}", array
        return
    if piece == "layer_norm":
        yield f"{prefix}.{_BLOCK[block]}_layer_norm.{_NORM[kind]}", array
        return
    names = _FUSED[block, piece]
    for projection, rows in zip(names, np.split(array, len(names)), strict=True):
        if (projection, kind) == ("k_proj", "bias"):
            if rows.any():
                raise ValueError("a key bias is not zero: this is no Whisper")
            continue
        yield f"{prefix}.{_BLOCK[block]}.{projection}.{kind}", np.ascontiguousarray(rows)
