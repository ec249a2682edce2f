"""int8 CTC on a CPU: batches of one that are exact, folders that say the same as quantising anew, honest names."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCTC

from consumer.core.hearing import Samples
from consumer.engines import ctc, ctc_int8
from consumer.engines.ctc_network import fold_weight_norms
from consumer.engines.ctc_quantize import write_int8
from tests.support import tiny_ctc
from tests.support.cli import Earwitness
from tests.support.tiny_ctc import NormKind, babble

KINDS: tuple[NormKind, ...] = ("group", "layer")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ctc.build(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def quantised(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "out"
    write_int8(str(folder), out, revision="r7")
    return out


def load(folder: Path, compute_type: str = "auto") -> ctc.CtcModel:
    return ctc.load(str(folder), revision=None, device="cpu", compute_type=compute_type, threads=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> ctc.CtcModel:
    return load(folder)


def hear(model: ctc.CtcModel, chunks: list[Samples]) -> list[np.ndarray]:
    heard = model.recognise(chunks, [None] * len(chunks), [False] * len(chunks))
    return [answer.frame_ids for answer in heard]


@given(st.lists(st.integers(300, 40_000), min_size=2, max_size=4))
@settings(max_examples=6, derandomize=True)
def test_int8_hears_every_chunk_as_if_it_were_alone(model: ctc.CtcModel, lengths: list[int]) -> None:
    chunks = [babble(3.0, index)[:length] for index, length in enumerate(lengths)]
    together = model.log_probabilities(chunks)
    for chunk, scores, ids in zip(chunks, together, hear(model, chunks), strict=True):
        assert torch.equal(scores, model.log_probabilities([chunk])[0])
        assert np.array_equal(ids, hear(model, [chunk])[0])


def test_peers_in_one_batch_would_change_what_int8_hears(model: ctc.CtcModel) -> None:
    """Why its batches are of one: the scale of activations is over the whole batch."""
    chunks = [babble(2.0, 1), babble(2.0, 2) * 3]
    alone = model.network.log_probabilities(chunks[:1])[0]
    assert not torch.equal(model.network.log_probabilities(chunks)[0], alone)
    assert model.info.max_batch_chunks == 1


def test_int8_is_what_auto_means_on_a_cpu_and_the_model_says_what_runs(folder: Path, model: ctc.CtcModel) -> None:
    assert model.info.ref.quantization in ("int8", "int8+bfloat16")
    assert load(folder, "int8").info.ref.quantization in ("int8", "int8+bfloat16")
    assert load(folder, "float32").info.max_batch_chunks is None


@pytest.mark.parametrize("helps", [True, False])
def test_convolutions_go_to_bfloat16_where_that_is_quicker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.5 if helps else 1.5}
    monkeypatch.setattr(ctc_int8, "_trial_seconds", lambda *args: seconds[args[2]])
    loaded = load(folder)
    assert loaded.info.ref.quantization == ("int8+bfloat16" if helps else "int8")
    first = loaded.network.recogniser.network.base_model.feature_extractor.conv_layers[0].conv
    assert first.weight.dtype == (torch.bfloat16 if helps else torch.float32)
    exact = load(folder, "float32")
    chunk = babble(3.0, 4)
    right, scores = exact.log_probabilities([chunk])[0], loaded.log_probabilities([chunk])[0]
    error = (scores - right).abs().amax(-1)
    best = right.topk(2, dim=-1).values
    sure = best[:, 0] - best[:, 1] > 2 * error
    assert torch.equal(scores.argmax(-1)[sure], right.argmax(-1)[sure])
    assert float((scores - right).norm() / right.norm()) < 0.2


def test_a_trial_of_the_convolutions_takes_time_in_both_types(folder: Path) -> None:
    base = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32).base_model
    fold_weight_norms(base)
    assert ctc_int8._trial_seconds(base.feature_extractor, base.encoder.pos_conv_embed, torch.float32) > 0
    positions = ctc_int8.InBfloat16(base.encoder.pos_conv_embed)
    assert ctc_int8._trial_seconds(base.feature_extractor.bfloat16(), positions, torch.bfloat16) > 0


def test_a_quantised_folder_says_exactly_what_quantising_anew_says(
    folder: Path, quantised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctc_int8, "_trial_seconds", lambda *_: 1.0)  # the same arithmetic in both
    anew, read = load(folder), load(quantised)
    for seconds in (0.1, 1.3, 4.0):
        chunk = babble(seconds, int(seconds * 10))
        assert torch.equal(anew.log_probabilities([chunk])[0], read.log_probabilities([chunk])[0])
    assert read.info.vocabulary == anew.info.vocabulary
    assert (read.info.languages, read.info.ref.quantization) == (("en",), "int8")
    assert (read.info.ref.model, read.info.ref.revision) == (str(quantised), "r7")


def test_a_quantised_folder_holds_integers_and_nothing_that_runs(quantised: Path) -> None:
    names = {path.name for path in quantised.iterdir()}
    assert {"config.json", "vocab.json", "int8.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCTC.from_pretrained(
            quantised, local_files_only=True
        )  # transformers must not take the integers for weights


def test_a_quantised_folder_is_for_int8_on_a_cpu(quantised: Path) -> None:
    with pytest.raises(ValueError, match="quantised to int8"):
        load(quantised, "float32")
    with pytest.raises(ValueError, match="quantised to int8"):
        ctc.load(str(quantised), revision=None, device="cuda:0", compute_type="auto", threads=1)


def test_int8_is_refused_on_a_gpu(folder: Path) -> None:
    with pytest.raises(ValueError, match="it is for CPUs"):
        ctc.load(str(folder), revision=None, device="cuda:0", compute_type="int8", threads=1)


def test_weights_of_another_format_or_with_holes_are_refused(quantised: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in quantised.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / ctc_int8.WEIGHTS_FILE)
    save_file(tensors, tmp_path / ctc_int8.WEIGHTS_FILE, metadata={"format": "another"})
    with pytest.raises(ValueError, match="quantise the model again"):
        load(tmp_path)
    del tensors["lm_head.weight"]
    about = {"format": ctc_int8._FORMAT, "made_of": '{"revision": null}'}
    save_file(tensors, tmp_path / ctc_int8.WEIGHTS_FILE, metadata=about)
    with pytest.raises(ValueError, match=r"lacks weights \(lm_head.weight"):
        load(tmp_path)


def test_only_its_own_deprecation_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with warnings.catch_warnings():
            ctc_int8._silence_deprecation()
            warnings.warn("torch.ao.quantization is deprecated and so on", DeprecationWarning, stacklevel=1)
            warnings.warn("something else is deprecated", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["something else is deprecated"]


@pytest.fixture
def earwitness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Earwitness:
    return Earwitness(monkeypatch, capsys)


def test_the_command_writes_a_folder_that_is_served(earwitness: Earwitness, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert earwitness("quantize", str(folder), str(out), "--revision", "r1") == 0
    assert f"EARWITNESS_MODEL={out}" in earwitness.out
    assert load(out).info.ref.revision == "r1"


def test_the_command_says_what_is_wrong_and_writes_nothing(
    earwitness: Earwitness, folder: Path, quantised: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "wavlm").mkdir()
    (tmp_path / "wavlm" / "config.json").write_text('{"model_type": "wavlm"}')
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for model, target, said in [
        (folder, tmp_path / "full", "is not an empty folder"),
        (quantised, tmp_path / "new", "it is quantised already"),
        (tmp_path / "bert", tmp_path / "new", "is a bert model"),
        (tmp_path / "wavlm", tmp_path / "new", "int8 is not available for a wavlm model"),
        (tmp_path / "nowhere", tmp_path / "new", "nowhere"),
    ]:
        assert earwitness("quantize", str(model), str(target)) == 1
        assert said in earwitness.err
        assert len(earwitness.err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
