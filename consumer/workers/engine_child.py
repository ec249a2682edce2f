"""The engine child: holds one model and answers batches of chunks. The only process that imports torch.

A request lists chunks as places in files of samples; the answer lists what was heard, frames behind it.
A chunk whose samples cannot be read is answered with its own error: its peers are heard all the same.
"""

import importlib
import sys
import time
from typing import Any

from consumer.core.hearing import Model, Samples
from consumer.engines.wire import Answer, ChunkAsk, answers_to_wire, info_to_wire
from consumer.errors import TransientError
from consumer.workers.child import Handler, serve

LOADERS = {
    "ctc": "consumer.engines.ctc:load",
    "whisper": "consumer.engines.whisper:load",
    "ctranslate2": "consumer.engines.ctranslate2:load",
}
"""Where each kind of engine is loaded: ``load(model, *, revision, device, compute_type, threads, **options) -> Model``.
Options are a kind's own."""

EXIT_UNTRUSTED = 86
"""The accelerator failed: its context is poisoned for the rest of the process's life."""

_ACCELERATOR_WORDS = ("CUDA", "cuDNN", "CUBLAS", "cuBLAS")
"""What libraries that know no better error than RuntimeError say of it."""


def setup(init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    """Load and warm up. ``init``: engine, model, revision, device, compute_type, threads, options, maybe ``loader``."""
    began = time.monotonic()
    device = _device(init["engine"], init["device"])
    module, _, function = (init.get("loader") or LOADERS[init["engine"]]).partition(":")
    model: Model = getattr(importlib.import_module(module), function)(
        init["model"],
        revision=init["revision"],
        device=device,
        compute_type=init["compute_type"],
        threads=init["threads"],
        **init["options"],
    )
    info = {**info_to_wire(model.info), "device": device, "load_seconds": time.monotonic() - began}

    def handle(header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        began = time.monotonic()
        answers = _recognise(model, [ChunkAsk.from_wire(chunk) for chunk in header["chunks"]])
        headers, payload = answers_to_wire(answers)
        return {"chunks": headers, "seconds": time.monotonic() - began}, payload

    return info, handle


def _device(engine: str, wanted: str) -> str:
    """``auto`` becomes the first GPU if the engine's own library finds one, else the CPU."""
    if wanted != "auto":
        return wanted
    if engine == "ctranslate2":
        found = importlib.import_module("ctranslate2").get_cuda_device_count() > 0
    else:
        found = importlib.import_module("torch").cuda.is_available()
    return "cuda:0" if found else "cpu"


def _recognise(model: Model, asks: list[ChunkAsk]) -> list[Answer]:
    chunks = [_read(ask) for ask in asks]
    whole = [(ask, chunk) for ask, chunk in zip(asks, chunks, strict=True) if not isinstance(chunk, TransientError)]
    try:
        heard = iter(
            model.recognise(
                [chunk for _, chunk in whole],
                [ask.language for ask, _ in whole],
                [ask.words for ask, _ in whole],
            )
            if whole
            else []
        )
    except RuntimeError as error:
        _leave_if_untrusted(error)
        raise
    return [chunk if isinstance(chunk, TransientError) else next(heard) for chunk in chunks]


def _read(ask: ChunkAsk) -> Samples | TransientError:
    try:
        return ask.read()
    except TransientError as error:
        return error


def _leave_if_untrusted(error: RuntimeError) -> None:
    """End this process after an error of the accelerator: whatever came next would fail, or lie.

    Running out of its memory counts too: a new process begins with all of it, and smaller batches follow.
    """
    torch = sys.modules.get("torch")
    broken: tuple[type[BaseException], ...] = (torch.AcceleratorError, torch.OutOfMemoryError) if torch else ()
    if isinstance(error, broken) or any(name in str(error) for name in _ACCELERATOR_WORDS):
        print(f"engine child leaves: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_UNTRUSTED) from error


if __name__ == "__main__":
    serve(setup)
