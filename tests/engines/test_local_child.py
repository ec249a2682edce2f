"""The engine child's own rules, and what travels between it and the service."""

from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from consumer.core.hearing import HeardChunk, HeardWord, Model, ModelInfo, Pcm
from consumer.engines import wire
from consumer.engines.wire import ChunkAsk
from consumer.errors import RecordingError, TransientError
from consumer.workers import engine_child
from consumer.workers.channel import pack
from schemas.codes import Reason
from schemas.models import EngineRef

INFO = ModelInfo(EngineRef(name="ctc", model="m", revision="r"), ("en",), ("<pad>", "A", "|"), 0, "|")


class Failing:
    """A Model whose accelerator or whose code is at fault."""

    info = INFO

    def __init__(self, error: Exception) -> None:
        self.error = error

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        raise self.error


@pytest.fixture
def ask(tmp_path: Path) -> ChunkAsk:
    path = tmp_path / "a.pcm"
    path.write_bytes(np.arange(1000, dtype="<i2").tobytes())
    return ChunkAsk(path, 100, 300, "en", words=True)


def hear(model: Model, *asks: ChunkAsk) -> list[wire.Answer]:
    """A batch as the child hears it."""
    ears = engine_child.Ears(model)
    header = {"chunks": [ask.to_wire() for ask in asks]}
    answer, payload = ears.answer(header, ears.prepare(header, b""))
    return wire.answers_from_wire(over_the_wire(answer["chunks"]), payload)  # type: ignore[arg-type]


def over_the_wire(header: object) -> object:
    """As JSON has it: no tuples, no paths."""
    encoded, _ = pack({"body": header})
    return wire_header(encoded)


def wire_header(encoded: bytes) -> object:
    return orjson.loads(encoded[encoded.index(b"{") :])["body"]


def test_a_chunk_is_the_samples_between_its_bounds(ask: ChunkAsk) -> None:
    assert np.array_equal(ask.read(), np.arange(100, 300, dtype=np.int16))
    assert ChunkAsk.from_wire(ask.to_wire()) == ask


def test_a_file_that_is_gone_or_cut_short_is_said_to_be(ask: ChunkAsk) -> None:
    with pytest.raises(TransientError, match="cut short"):
        ChunkAsk(ask.pcm_path, 900, 1100).read()
    ask.pcm_path.unlink()
    with pytest.raises(TransientError, match="cannot be read"):
        ask.read()


def test_answers_arrive_as_they_were_sent() -> None:
    sent: list[wire.Answer] = [
        HeardChunk(np.array([1, 0, 2], np.int32), np.array([0.5, 1.0, 0.25], np.float32)),
        RecordingError(Reason.POISON, "no"),
        HeardChunk(
            text="a b",
            words=(HeardWord("a", 0.0, 0.5, 0.9), HeardWord("b", 0.5, 1.0)),
            mean_logprob=-0.3,
            no_speech_probability=0.1,
            tokens=4,
            language="en",
            warnings=("repetition",),
        ),
        TransientError(Reason.ENGINE_FAILED, "gone"),
        HeardChunk(np.array([7], np.int32), np.array([0.0], np.float32)),
    ]
    headers, payload = wire.answers_to_wire(sent)
    received = wire.answers_from_wire(over_the_wire(headers), payload)  # type: ignore[arg-type]
    assert len(received) == len(sent)
    for before, after in zip(sent, received, strict=True):
        assert type(before) is type(after)
        if isinstance(before, HeardChunk) and isinstance(after, HeardChunk):
            assert np.array_equal(before.frame_ids, after.frame_ids)
            assert np.array_equal(before.frame_confidence, after.frame_confidence)
            assert (before.text, before.words, before.warnings) == (after.text, after.words, after.warnings)
            assert (before.mean_logprob, before.tokens, before.language) == (
                after.mean_logprob,
                after.tokens,
                after.language,
            )


def test_what_a_model_says_of_itself_arrives_as_it_was_sent() -> None:
    for info in (INFO, ModelInfo(EngineRef(name="whisper", model="m"))):
        assert wire.info_from_wire(over_the_wire(wire.info_to_wire(info))) == info  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        torch.AcceleratorError("illegal memory access"),
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_child_whose_accelerator_failed_leaves(ask: ChunkAsk, error: Exception) -> None:
    with pytest.raises(SystemExit) as leaving:
        hear(Failing(error), ask)
    assert leaving.value.code == engine_child.EXIT_UNTRUSTED


def test_a_child_stays_after_an_error_of_the_model(ask: ChunkAsk) -> None:
    for error in (RuntimeError("sizes do not fit"), ValueError("not finite")):
        with pytest.raises(type(error)):
            hear(Failing(error), ask)


def test_a_batch_of_unreadable_chunks_does_not_trouble_the_model(tmp_path: Path) -> None:
    (answer,) = hear(Failing(ValueError("asked")), ChunkAsk(tmp_path / "none", 0, 5))
    assert isinstance(answer, TransientError)


class Narrow:
    """A Model that hears so many chunks at once and no more, and says by its words how many they were."""

    info = INFO

    def __init__(self, most: int, error: Exception) -> None:
        self.most = most
        self.error = error
        self.batches: list[int] = []

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        self.batches.append(len(chunks))
        if len(chunks) > self.most:
            raise self.error
        return [HeardChunk(text=str(chunk[0])) for chunk in chunks]


NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA failed with error out of memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_memory_cannot_hold_is_heard_in_parts_and_so_is_the_next(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    path = tmp_path / "a.pcm"
    path.write_bytes(np.arange(8000, dtype="<i2").tobytes())
    asks = [ChunkAsk(path, start, start + 1000) for start in range(0, 8000, 1000)]
    model = Narrow(2, error)
    ears = engine_child.Ears(model)
    header = {"chunks": [ask.to_wire() for ask in asks]}
    for _ in range(2):
        answer, _ = ears.answer(header, ears.prepare(header, b""))
        assert [chunk["text"] for chunk in answer["chunks"]] == [str(start) for start in range(0, 8000, 1000)]
    assert model.batches == [8, 4, 2, 2, 4, 2, 2, *[2] * 4], "the second batch goes in parts at once"
    assert capfd.readouterr().err.count("out of memory over") == 3


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_child_without_memory_for_one_chunk_leaves(ask: ChunkAsk, error: Exception) -> None:
    with pytest.raises(SystemExit):
        hear(Narrow(0, error), ask)


def test_a_model_that_stages_gets_what_it_laid_ready(ask: ChunkAsk, tmp_path: Path) -> None:
    class Staging(Narrow):
        def stage(self, chunks: list[Pcm]) -> tuple[Pcm, ...]:
            return tuple(chunk + np.int16(1) for chunk in chunks)

        def recognise_staged(self, staged: tuple[Pcm, ...]) -> list[HeardChunk]:
            return self.recognise(list(staged), [None] * len(staged), [False] * len(staged))

    missing, heard = hear(Staging(9, MemoryError()), ChunkAsk(tmp_path / "none", 0, 5), ask)
    assert isinstance(missing, TransientError)
    assert isinstance(heard, HeardChunk)
    assert heard.text == "101"


@pytest.mark.parametrize("library", ["torch", "ctranslate2"])
def test_auto_means_every_gpu_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    engine = "ctc" if library == "torch" else "ctranslate2"
    for count, devices in ((0, ["cpu"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda count=count: count)
        assert engine_child.devices_there(engine) == devices
