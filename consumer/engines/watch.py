"""Told of every batch of an engine: adds what was heard to the engine's load, and draws it into its events' traces."""

import time
from collections.abc import Callable
from typing import Any

from consumer.core.engine_load import EngineLoad
from consumer.engines.served import BatchReport
from consumer.telemetry.calls import draw_batch


class BatchWatch:
    """One for the primary engine; ``model`` names it on the spans."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self.load = EngineLoad(clock())

    def __call__(self, report: BatchReport[Any]) -> None:
        closed = "retry" if report.closed is None else report.closed.value
        if report.failed is None:
            self.load.add(
                chunks=len(report.items),
                closed=closed,
                audio_seconds=report.audio_seconds,
                padded_seconds=report.padded_seconds,
                busy_seconds=report.seconds,
                slots=report.slots,
                now=self._clock(),
            )
        attributes = {
            "earwitness.batch.chunks": len(report.items),
            "earwitness.batch.audio_seconds": report.audio_seconds,
            "earwitness.batch.padded_seconds": report.padded_seconds,
            "earwitness.batch.closed": closed,
        }
        draw_batch(self._model, report.seconds, report.contexts, attributes, failed=report.failed)
