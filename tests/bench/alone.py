"""The service's engine without the service: the same model, windows, batches and guards, in this process."""

import importlib
import tempfile
from pathlib import Path
from typing import Any

from consumer.audio.decode import decode_file
from consumer.core.batcher import Batcher
from consumer.core.hearing import HeardChunk, Model
from consumer.core.model import Recording
from consumer.engines.local import _family, _limits, _plan
from consumer.engines.wire import ChunkAsk
from consumer.settings import Settings
from consumer.workers.engine_child import LOADERS
from tests.bench.clips import Clip
from tests.bench.contestants import Spec


class EngineAlone:
    """Hears clips that were decoded before; planning, batching and merging are part of hearing."""

    note = ""

    def __init__(self, spec: Spec, clips: list[Clip]) -> None:
        settings = settings_of(spec)
        self.at_once = len(clips)
        self._family = _family(settings)
        self._language = spec.language
        self._words = settings.word_times
        module, _, function = LOADERS[spec.engine].partition(":")
        self._model: Model = getattr(importlib.import_module(module), function)(
            spec.model, revision=None, device=spec.device, compute_type=spec.compute_type, threads=spec.threads
        )
        self._limits = _limits(settings, spec.device, self._model.info)
        self._folder = tempfile.TemporaryDirectory()
        self._decoded = {clip.name: _decode(clip, Path(self._folder.name)) for clip in clips}

    def hear(self, clips: list[Clip]) -> list[str]:
        recordings = [self._decoded[clip.name] for clip in clips]
        plans = [_plan(self._family, recording) for recording in recordings]
        batcher: Batcher[tuple[int, int]] = Batcher(self._limits)
        for number, spans in enumerate(plans):
            for place, span in enumerate(spans):
                batcher.add((number, place), (span.stop - span.start) / 16_000, critical=False, now=0.0)
        batcher.drain()
        heard: dict[tuple[int, int], HeardChunk] = {}
        while (batch := batcher.take(0.0)) is not None:
            spans = [plans[number][place] for number, place in batch.items]
            chunks: list[Any] = [
                ChunkAsk(recordings[number].pcm_path, span.start, span.stop).read()
                for (number, _), span in zip(batch.items, spans, strict=True)
            ]
            answers = self._model.recognise(chunks, [self._language] * len(chunks), [span.words for span in spans])
            heard |= zip(batch.items, answers, strict=True)
        return [
            self._family.merge(
                spans, [heard[number, place] for place in range(len(spans))], self._model.info, recording.audio_seconds
            ).text
            if spans
            else ""
            for number, (spans, recording) in enumerate(zip(plans, recordings, strict=True))
        ]


def settings_of(spec: Spec) -> Settings:
    """The service's settings that a spec stands for."""
    return Settings.model_validate(
        {
            **spec.settings,
            "engine": spec.engine,
            "model": spec.model,
            "devices": [spec.device],
            "compute_type": spec.compute_type,
            "engine_threads": spec.threads,
            "language": spec.language,
        }
    )


def _decode(clip: Clip, folder: Path) -> Recording:
    path = folder / f"{clip.name}.pcm"
    result = decode_file(clip.path, path, max_seconds=Settings().max_audio_seconds)
    return Recording(digest=clip.name, pcm_path=path, samples=result.samples)
