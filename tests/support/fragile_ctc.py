"""A real CTC model with an Achilles heel, for the engine child: some chunks kill it, fail it, stop it or eat memory."""

import os
import signal
from pathlib import Path

import torch

from consumer.core.hearing import HeardChunk, ModelInfo, Pcm
from consumer.engines import ctc

FRAGILE = "tests.support.fragile_ctc:load"
"""What ``LocalEngine(loader=...)`` takes."""

DEVICES = "tests.support.fragile_ctc:load_on_devices"
"""The same with ``Devices``."""
THREE_GPUS = "FRAGILE_CTC_THREE_GPUS"
"""Set in the environment: torch counts three GPUs."""

HOLDS, KILLS, FAILS, EATS = 30_000, 31_000, 32_000, 32_500
"""A first sample of just this size stands for what cannot be foreseen: babble is never so loud."""
GATE = "gate"
"""A named pipe in the model's folder: while it exists, a chunk that HOLDS opens it and then never ends."""


class FragileCtc:
    """A Model."""

    def __init__(self, model: ctc.CtcModel, gate: Path) -> None:
        self._model = model
        self._gate = gate

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        for chunk in chunks:
            if chunk[0] == KILLS:
                os.kill(os.getpid(), signal.SIGSEGV)
            if chunk[0] == FAILS:
                raise LookupError("this model cannot stomach this chunk")
            if chunk[0] == EATS:
                raise MemoryError
            if chunk[0] == HOLDS and self._gate.exists():
                os.close(os.open(self._gate, os.O_WRONLY))
                signal.pause()
        return self._model.recognise(chunks, languages, words)


def load(model: str, *, revision: str | None, device: str, compute_type: str, threads: int) -> FragileCtc:
    """As any engine's ``load``."""
    loaded = ctc.load(model, revision=revision, device=device, compute_type=compute_type, threads=threads)
    return FragileCtc(loaded, Path(model) / GATE)


class Devices(FragileCtc):
    """A machine with three GPUs, as far as anybody can tell: each notes in its folder what it was asked."""

    batches_at_once = 2

    def __init__(self, model: ctc.CtcModel, folder: Path, device: str) -> None:
        super().__init__(model, folder / GATE)
        self._log = folder / f"{device}.log"

    def warm_up(self, lengths_seconds: list[float]) -> None:
        self._note(f"warm {lengths_seconds}")

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        self._note(f"heard {len(chunks)}")
        return super().recognise(chunks, languages, words)

    def _note(self, line: str) -> None:
        with self._log.open("a") as file:
            file.write(f"{line}\n")


def load_on_devices(model: str, *, revision: str | None, device: str, compute_type: str, threads: int) -> Devices:
    """As any engine's ``load``."""
    loaded = ctc.load(model, revision=revision, device="cpu", compute_type=compute_type, threads=threads)
    return Devices(loaded, Path(model), device)


if os.environ.get(THREE_GPUS):
    torch.cuda.device_count = lambda: 3
