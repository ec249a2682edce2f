"""The CTC model in its child: batching never changes what is heard, in both kinds of normalisation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from consumer.core.ctc import CtcFamily, collapse
from consumer.core.frames import frame_count
from consumer.core.hearing import HeardChunk, Samples, Span
from consumer.engines import ctc, ctc_network
from tests.support import tiny_ctc
from tests.support.tiny_ctc import NormKind, babble

KINDS: tuple[NormKind, ...] = ("group", "layer")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ctc.build(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> ctc.CtcModel:
    return ctc.load(str(folder), revision=None, device="cpu", compute_type="float32", threads=1)


def naive(folder: Path, chunks: list[Samples]) -> torch.Tensor:
    """What transformers' own feature extractor and model make of a batch."""
    network = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(chunks, sampling_rate=16_000, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return torch.log_softmax(network(**inputs).logits, dim=-1)


def random_chunks(seed: int, count: int) -> list[Samples]:
    lengths = np.random.default_rng(seed).uniform(0.025, 6.0, count)
    return [babble(seconds, seed * 100 + index) for index, seconds in enumerate(lengths)]


def hear(model: ctc.CtcModel, chunks: list[Samples]) -> list[HeardChunk]:
    return model.recognise(chunks, [None] * len(chunks), [False] * len(chunks))


@pytest.mark.parametrize("seed", range(4))
def test_a_chunk_is_heard_alike_alone_and_in_any_batch(model: ctc.CtcModel, seed: int) -> None:
    chunks = random_chunks(seed, 6)
    together = model.log_probabilities(chunks)
    for chunk, beside_others in zip(chunks, together, strict=True):
        alone = model.log_probabilities([chunk])[0]
        assert alone.shape == beside_others.shape == (frame_count(chunk.size), len(tiny_ctc.VOCABULARY))
        assert float((alone - beside_others).abs().max()) < 1e-4
    for chunk, answer in zip(chunks, hear(model, chunks), strict=True):
        (by_itself,) = hear(model, [chunk])
        assert np.array_equal(by_itself.frame_ids, answer.frame_ids)
        assert np.allclose(by_itself.frame_confidence, answer.frame_confidence, atol=1e-4)


def test_a_chunk_alone_is_heard_as_transformers_hears_it(model: ctc.CtcModel, folder: Path) -> None:
    chunk = babble(3.0, 5)
    assert float((model.log_probabilities([chunk])[0] - naive(folder, [chunk])[0]).abs().max()) < 1e-4


def test_the_usual_batch_of_a_group_norm_model_is_heard_differently(tmp_path: Path) -> None:
    """Why the chunkwise norm exists: the same chunk beside a longer one, through transformers' own batch."""
    folder = tiny_ctc.build(tmp_path, "group")
    short, long = babble(1.0, 1), babble(4.0, 2)
    alone = naive(folder, [short])[0]
    together = naive(folder, [short, long])[0, : alone.shape[0]]
    assert float((alone - together).abs().max()) > 1e-2
    assert not torch.equal(alone.argmax(-1), together.argmax(-1))


def test_a_mask_alone_does_not_mend_the_group_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ctc.load(
        str(tiny_ctc.build(tmp_path, "group")), revision=None, device="cpu", compute_type="float32", threads=1
    )
    chunks = [babble(1.0, 1), babble(4.0, 2)]
    right = model.log_probabilities(chunks)[0]
    monkeypatch.setattr(ctc_network, "norm_own_frames", lambda norm, hidden, _: norm(hidden))
    assert float((model.log_probabilities(chunks)[0] - right).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="differently in a batch"):
        model.check(1e-3)


def test_chunks_too_short_for_a_frame_are_answered_with_none(model: ctc.CtcModel) -> None:
    chunks = [babble(0.0, 0), babble(399 / 16_000, 1), babble(1.0, 2), np.zeros(400, np.float32)]
    assert [answer.frame_ids.size for answer in hear(model, chunks)] == [0, 0, 49, 1]
    assert [answer.frame_ids.size for answer in hear(model, chunks[:2])] == [0, 0]


def test_samples_that_are_no_numbers_are_reported_and_not_heard_as_silence(model: ctc.CtcModel) -> None:
    broken = babble(1.0, 3)
    broken[500] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        hear(model, [babble(1.0, 4), broken])


def test_the_model_says_what_its_family_needs(model: ctc.CtcModel, folder: Path) -> None:
    info = model.info
    assert (info.ref.name, info.ref.model, info.ref.quantization) == ("ctc", str(folder), None)
    assert info.languages == ("en",)
    assert info.vocabulary == tiny_ctc.VOCABULARY
    assert (info.blank_id, info.word_delimiter) == (0, "|")


def test_the_text_is_what_the_tokenizer_makes_of_the_same_ids(model: ctc.CtcModel, folder: Path) -> None:
    """But for its specials, which it writes out; and never with ``skip_special_tokens``, which loses letters."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hello = [tiny_ctc.VOCABULARY.index(symbol) for symbol in ("H", "H", "<pad>", "E", "L", "<pad>", "L", "L", "O")]
    assert tokenizer.decode(hello, skip_special_tokens=True) == "HELO"
    family = CtcFamily(20.0, 2.0)

    def text(ids: list[int]) -> str:
        answer = HeardChunk(np.array(ids, np.int32), np.ones(len(ids), np.float32))
        return family.merge([Span(0, 16_000)], [answer], model.info, 1.0).text

    assert text(hello) == tokenizer.decode(hello) == "HELLO"
    (answer,) = hear(model, [babble(4.0, 9)])
    ids = [int(index) for index in answer.frame_ids]
    written = tokenizer.decode(ids)
    for special in ("<s>", "</s>", "<unk>"):
        written = written.replace(special, "")
    assert text(ids).split() == written.split()
    assert collapse(answer.frame_ids, 0).ids.size > 20


def test_bfloat16_is_loaded_when_asked_for(folder: Path) -> None:
    loaded = ctc.load(str(folder), revision="r1", device="cpu", compute_type="bfloat16", threads=1)
    assert (loaded.info.ref.quantization, loaded.info.ref.revision) == ("bfloat16", "r1")
    (answer,) = hear(loaded, [babble(2.0, 1)])
    assert answer.frame_ids.size == frame_count(32_000)


def test_what_is_no_ctc_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        ctc.load(str(folder), revision=None, device="cpu", compute_type="float16", threads=1)
    copy = tmp_path / "other"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "conv_stride": [5, 2, 2, 2, 2, 2, 1]}))
    with pytest.raises(ValueError, match="frames of 160 samples"):
        ctc.load(str(copy), revision=None, device="cpu", compute_type="float32", threads=1)


def test_a_model_without_its_ctc_head_is_refused(folder: Path, tmp_path: Path) -> None:
    network = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    network.wav2vec2.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights"):
        ctc.load(str(tmp_path), revision=None, device="cpu", compute_type="float32", threads=1)
