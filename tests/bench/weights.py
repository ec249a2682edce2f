"""Models to measure with, where no network gives any: Whisper tiny.en's true weights, wav2vec2 with random ones."""

import json
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from compose.tiny_en import ct2_tiny_en
from tests.support import tiny_ctc
from tests.support.whisper_weights import hf_tiny_en

SHAPES = {
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
"""wav2vec2-base-960h is transformers' default; wav2vec2-large-960h differs from it in these (315 million weights)."""
SIZES = ("tiny", *SHAPES)


def model_for(engine: str, ctc_size: str, folder: Path) -> Path:
    """The folder of an engine's model; CTC's is made under ``folder`` if it is not there (1.3 GB for large)."""
    if engine == "ctranslate2":
        return ct2_tiny_en()
    if engine == "whisper":
        return hf_tiny_en()
    target = folder / f"random-wav2vec2-{ctc_size}"
    if not (target / "model.safetensors").exists():
        write_random_ctc(target, ctc_size)
    return target


def config_of(size: str) -> Wav2Vec2Config:
    """Of the true models, ``base`` or ``large``."""
    return Wav2Vec2Config(vocab_size=len(tiny_ctc.VOCABULARY), pad_token_id=0, **SHAPES[size])


def write_random_ctc(folder: Path, size: str, seed: int = 7) -> None:
    """A model as the hub has them, of the true shape, whose words mean nothing."""
    if size == "tiny":
        tiny_ctc.build(folder, "group")
        return
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {symbol: index for index, symbol in enumerate(tiny_ctc.VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), do_lower_case=False).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlanguage: en\n---\n# Random weights\n")
    network = Wav2Vec2ForCTC(config_of(size))
    with torch.no_grad():
        network.lm_head.weight.normal_(std=1.0)  # else every frame says the same
    network.save_pretrained(folder)
