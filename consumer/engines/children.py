"""The engine children, one for each device: started together, asked by number, stopped together."""

import asyncio
import os
from typing import Any

from consumer.engines.wire import Answer, ChunkAsk, answers_from_wire
from consumer.errors import TransientError
from consumer.settings import Settings
from consumer.workers.supervisor import Supervisor

CHILD_MODULE = "consumer.workers.engine_child"
START_TIMEOUT_SECONDS = 900.0
"""A first start may download the model."""
IN_FLIGHT = 2
"""Batches that a child holds: one that it hears, and the next one, read and laid ready meanwhile."""


class EngineChildren:
    """Supervised children with the settings' model; ``loader`` (``module:function``) replaces it."""

    def __init__(self, settings: Settings, warm_lengths_seconds: list[float], loader: str | None) -> None:
        self._settings = settings
        self._init = {
            "engine": settings.engine,
            "model": settings.model,
            "revision": settings.model_revision,
            "compute_type": settings.compute_type,
            "threads": settings.engine_threads or os.cpu_count() or 1,
            "warm_lengths_seconds": warm_lengths_seconds,
            "loader": loader,
            "options": _options(settings),
        }
        self._children = [self._child(device) for device in settings.devices]

    def __len__(self) -> int:
        return len(self._children)

    @property
    def pids(self) -> list[int]:
        """Processes of the children that are up."""
        return [child.pid for child in self._children if child.pid is not None]

    async def start(self) -> dict[str, Any]:
        """Start a child for each device and wait for all; ``auto``: every GPU that the first child finds, else the CPU.

        What the first child says of itself. Raises ReasonedError if one cannot start; none is left running.
        """
        told = await self._start(self._children)
        if self._settings.devices == ["auto"]:
            others = [self._child(device) for device in told["devices"][1:]]
            self._children += others
            await self._start(others)
        return told

    async def stop(self) -> None:
        """End all of them and every request that waits; idempotent."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.stop())

    async def hear(self, number: int, asks: list[ChunkAsk]) -> list[Answer]:
        """Have a child hear a batch. Raises what ``Supervisor.request`` raises."""
        header, payload = await self._children[number].request(
            {"chunks": [ask.to_wire() for ask in asks]}, timeout_seconds=self._settings.engine_timeout_seconds
        )
        return answers_from_wire(header["chunks"], payload)

    def _child(self, device: str) -> Supervisor:
        return Supervisor(
            CHILD_MODULE,
            {**self._init, "device": device},
            name=f"engine {self._settings.engine} {device}",
            start_timeout_seconds=START_TIMEOUT_SECONDS,
            max_rss_growth_bytes=self._settings.engine_recycle_rss_bytes,
            in_flight=IN_FLIGHT,
        )

    async def _start(self, children: list[Supervisor]) -> dict[str, Any]:
        """Start them side by side; what the first says of itself, or nothing of nobody."""
        try:
            async with asyncio.TaskGroup() as group:
                starts = [group.create_task(child.start()) for child in children]
        except ExceptionGroup as failures:
            await self.stop()
            raise self._cannot_start(failures.exceptions[0]) from failures
        for child, start in zip(children, starts, strict=True):
            device = start.result()["device"]
            child.init = {**child.init, "device": device}  # a GPU that is gone at a restart is no reason to use the CPU
            child.warm_first = device == "cpu"
        return starts[0].result() if starts else {}

    def _cannot_start(self, error: Exception) -> Exception:
        if not isinstance(error, TransientError):
            return error
        # libraries speak in paragraphs, and of files rather than of the model
        return TransientError(error.reason, f"model {self._settings.model}: {' '.join(error.detail.split())}")


def _options(settings: Settings) -> dict[str, Any]:
    """What one kind of engine alone understands, where it is not the default."""
    if settings.engine == "ctc":
        return {"cuda_graphs": True} if settings.ctc_cuda_graphs == "auto" else {}
    return {"prompt": settings.whisper_prompt} if settings.whisper_prompt else {}
