"""Small wav2vec2 models with random weights: the true convolutions, the true tokenizer, hardly any transformer."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from consumer.core.hearing import Samples

NormKind = Literal["group", "layer"]
Size = Literal["tiny", "large"]
"""``large``: the true size of wav2vec2-large."""

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The 32 symbols of facebook/wav2vec2-large-960h, in its order."""


def build(folder: Path, norm: NormKind, *, seed: int = 7, language: str | None = "en", size: Size = "tiny") -> Path:
    """Write a model that can be loaded like any other; ``group`` as the 960h models are, ``layer`` as lv60."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({symbol: index for index, symbol in enumerate(VOCABULARY)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), do_lower_case=False).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    network = Wav2Vec2ForCTC(_config(norm) if size == "tiny" else _large(norm))
    with torch.no_grad():
        # as they come, random weights say the same at every frame; louder ones make a lively text
        for parameter in network.parameters():
            if parameter.dim() > 1 and size == "tiny":
                parameter.mul_(2.0)
        network.lm_head.weight.normal_(std=1.0)
    network.save_pretrained(folder)
    if language is not None:
        (folder / "README.md").write_text(f"---\nlanguage: {language}\n---\n# Random weights\n")
    return folder


def _config(norm: NormKind) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32,) * 7,
        feat_extract_norm=norm,
        conv_bias=norm == "layer",
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=4,
        pad_token_id=0,
        ctc_loss_reduction="mean",
    )


def _large(norm: NormKind) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm=norm,
        conv_bias=norm == "layer",
        do_stable_layer_norm=norm == "layer",
        pad_token_id=0,
    )


def babble(seconds: float, seed: int) -> Samples:
    """Something for such a model to hear: tones that change ten times a second, with pauses."""
    generator = np.random.default_rng(seed)
    total = int(seconds * 16_000)
    time = np.arange(total) / 16_000
    parts = np.arange(total) // 1600
    count = int(parts[-1]) + 1 if total else 0
    pitch, loudness = (
        generator.uniform(80, 3000, count),
        generator.uniform(0, 0.3, count) * generator.integers(0, 2, count),
    )
    sound = loudness[parts] * np.sin(2 * np.pi * pitch[parts] * time) + generator.normal(0, 0.01, total)
    return sound.astype(np.float32)
