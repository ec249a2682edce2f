"""The engine child: holds one model and answers batches of chunks. The only process that imports torch.

A request lists chunks as places in files of samples; the answer lists what was heard, frames behind it.
A chunk whose samples cannot be read is answered with its own error: its peers are heard all the same. A batch that
is too much for the device's memory is heard in parts, and so are its like for a while.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consumer.core.hearing import HeardChunk, Model, Pcm, SideBySide, Stages, WarmsUp
from consumer.core.memory_budget import MemoryBudget
from consumer.core.model import SAMPLE_RATE
from consumer.engines.wire import Answer, ChunkAsk, answers_to_wire, info_to_wire
from consumer.errors import TransientError
from consumer.workers.channel import Frame
from consumer.workers.child import Handler, serve

LOADERS = {
    "ctc": "consumer.engines.ctc:load",
    "whisper": "consumer.engines.whisper:load",
    "ctranslate2": "consumer.engines.ctranslate2:load",
}
"""Where each kind of engine is loaded: ``load(model, *, revision, device, compute_type, threads, **options) -> Model``.
Options are a kind's own."""

EXIT_UNTRUSTED = 86
"""The accelerator failed, and its context is poisoned for the rest of the process's life; or memory is gone."""

_ACCELERATOR_WORDS = ("CUDA", "cuDNN", "CUBLAS", "cuBLAS")
"""What libraries that know no better error than RuntimeError say of it."""
_NO_MEMORY_WORDS = ("out of memory", "can't allocate memory")
"""The same of running out of memory, of the accelerator's and of the machine's."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk that was read, with what is wanted of it."""

    ask: ChunkAsk
    pcm: Pcm

    @property
    def audio_seconds(self) -> float:
        return self.pcm.size / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class _Batch:
    """A request's chunks, read."""

    read: list[_Chunk | TransientError]
    """All of them in order; an error for each that cannot be read."""
    whole: list[_Chunk]
    staged: Any = None
    """The whole ones as the model has laid them ready, if it does that."""


def setup(init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    """Load and warm up.

    ``init``: engine, model, revision, device, compute_type, threads, warm_lengths_seconds, perhaps that engine's
    ``options``, a ``loader``. Says, besides the model's own info, its ``device``, and all ``devices`` where that was
    ``auto``.
    """
    began = time.monotonic()
    # read when torch is loaded: threads that spin while they wait for each other take cores from all others
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, _, function = (init.get("loader") or LOADERS[init["engine"]]).partition(":")
    load = getattr(importlib.import_module(module), function)
    devices = devices_there(init["engine"]) if init["device"] == "auto" else [init["device"]]
    model: Model = load(
        init["model"],
        revision=init["revision"],
        device=devices[0],
        compute_type=init["compute_type"],
        threads=init["threads"],
        **init.get("options", {}),
    )
    if isinstance(model, WarmsUp):
        model.warm_up(init["warm_lengths_seconds"])
    seconds = time.monotonic() - began
    info = {**info_to_wire(model.info), "device": devices[0], "devices": devices, "load_seconds": seconds}
    ears = Ears(model)
    return info, Handler(ears.answer, ears.prepare, model.batches_at_once if isinstance(model, SideBySide) else 1)


def devices_there(engine: str) -> list[str]:
    """Every GPU that the engine's own library finds, else the CPU."""
    if engine == "ctranslate2":
        count = importlib.import_module("ctranslate2").get_cuda_device_count()
    else:
        count = importlib.import_module("torch").cuda.device_count()
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]


class Ears:
    """Reads a batch while another is heard, and hears it within what memory the device has."""

    def __init__(self, model: Model, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._budget = MemoryBudget()

    def prepare(self, header: dict[str, Any], _payload: bytes) -> _Batch:
        """The chunks' samples, on their way to the device where the model sees to that."""
        read = [_read(ChunkAsk.from_wire(chunk)) for chunk in header["chunks"]]
        whole = [chunk for chunk in read if isinstance(chunk, _Chunk)]
        if not isinstance(self._model, Stages) or not whole:
            return _Batch(read, whole)
        try:
            return _Batch(read, whole, self._model.stage([chunk.pcm for chunk in whole]))
        except RuntimeError as error:
            _leave_if_untrusted(error)
            raise

    def answer(self, _header: dict[str, Any], batch: _Batch) -> Frame:
        """What was heard in each chunk. Ends the process where the accelerator failed."""
        began = self._clock()
        heard = iter(self._hear(batch))
        answers: list[Answer] = [chunk if isinstance(chunk, TransientError) else next(heard) for chunk in batch.read]
        headers, payload = answers_to_wire(answers)
        return {"chunks": headers, "seconds": self._clock() - began}, payload

    def _hear(self, batch: _Batch) -> list[HeardChunk]:
        chunks, staged = batch.whole, batch.staged
        lengths_seconds = [chunk.audio_seconds for chunk in chunks]
        todo = [chunks[part] for part in reversed(self._budget.parts(lengths_seconds, self._clock()))]
        heard: list[HeardChunk] = []
        while todo:
            part = todo.pop()
            answers = self._within_memory(part, staged if len(part) == len(chunks) else None)
            if answers is not None:
                heard += answers
                continue
            _let_go()  # not before: until here the error held what the model had reserved
            middle = len(part) // 2
            todo += [part[middle:], part[:middle]]
        return heard

    def _within_memory(self, part: list[_Chunk], staged: Any) -> list[HeardChunk] | None:
        """What was heard; None if memory was too small for all of them together."""
        try:
            if staged is not None and isinstance(self._model, Stages):
                return self._model.recognise_staged(staged)
            return self._model.recognise(
                [chunk.pcm for chunk in part],
                [chunk.ask.language for chunk in part],
                [chunk.ask.words for chunk in part],
            )
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                _leave_if_untrusted(error)
                raise
            if len(part) == 1:
                # a new process begins with all of the memory; a chunk that is too much for that too is to blame
                raise _leaving(error) from error
            padded_seconds = len(part) * max(chunk.audio_seconds for chunk in part)
            self._budget.exceeded(padded_seconds, self._clock())
            print(
                f"out of memory over {len(part)} chunks, {padded_seconds:.0f} s of padded audio: half of it at once "
                f"from here ({type(error).__name__})",
                file=sys.stderr,
                flush=True,
            )
            return None


def _read(ask: ChunkAsk) -> _Chunk | TransientError:
    try:
        return _Chunk(ask, ask.read())
    except TransientError as error:
        return error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY_WORDS)


def _let_go() -> None:
    """Give back what the failed run had reserved, in one piece."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _leave_if_untrusted(error: Exception) -> None:
    """End this process after an error of the accelerator: whatever came next would fail, or lie."""
    torch = sys.modules.get("torch")
    broken: tuple[type[BaseException], ...] = (torch.AcceleratorError, torch.OutOfMemoryError) if torch else ()
    if isinstance(error, broken) or any(name in str(error) for name in _ACCELERATOR_WORDS):
        raise _leaving(error) from error


def _leaving(error: Exception) -> SystemExit:
    print(f"engine child leaves: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return SystemExit(EXIT_UNTRUSTED)


if __name__ == "__main__":
    serve(setup)
