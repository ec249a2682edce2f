"""The service's engine without the service: the same model, gate, windows, batches and guards, in this process."""

import importlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faster_whisper.vad import get_vad_model

from consumer.audio.decode import decode_file
from consumer.core.batcher import Batcher
from consumer.core.hearing import HeardChunk, Model, SideBySide, Span
from consumer.core.model import Recording
from consumer.core.pauses import frame_levels
from consumer.core.silence import by_energy, left_out
from consumer.engines.local import _family, _limits, _samples
from consumer.engines.silence_gate import _requests, has_gate
from consumer.engines.wire import ChunkAsk
from consumer.settings import Settings
from consumer.workers.engine_child import LOADERS
from consumer.workers.vad_child import voices
from tests.bench.clips import Clip
from tests.bench.contestants import Spec


class EngineAlone:
    """Hears clips that were decoded before; planning, batching and merging are part of hearing."""

    note = ""

    def __init__(self, spec: Spec, clips: list[Clip]) -> None:
        settings = settings_of(spec)
        self.at_once = len(clips)
        self._family = _family(settings)
        self._detector = get_vad_model() if has_gate(settings) else None
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
        plans = [self._plan(recording) for recording in recordings]
        batcher: Batcher[tuple[int, int]] = Batcher(self._limits)
        for number, spans in enumerate(plans):
            for place, span in enumerate(spans):
                batcher.add((number, place), (span.stop - span.start) / 16_000, critical=False, now=0.0)
        batcher.drain()
        batches = []
        while (batch := batcher.take(0.0)) is not None:
            batches.append([(item, recordings[item[0]], plans[item[0]][item[1]]) for item in batch.items])
        at_once = self._model.batches_at_once if isinstance(self._model, SideBySide) else 1
        heard: dict[tuple[int, int], HeardChunk] = {}
        with ThreadPoolExecutor(at_once) as pool:
            for answers in pool.map(self._hear, batches):
                heard |= answers
        return [
            self._family.merge(
                spans, [heard[number, place] for place in range(len(spans))], self._model.info, recording.audio_seconds
            ).text
            if spans
            else ""
            for number, (spans, recording) in enumerate(zip(plans, recordings, strict=True))
        ]

    def _hear(self, batch: list[tuple[tuple[int, int], Recording, Span]]) -> dict[tuple[int, int], HeardChunk]:
        chunks = [
            ChunkAsk(recording.pcm_path, span.start, span.stop, left_out=span.left_out).read()
            for _, recording, span in batch
        ]
        words = [span.words for _, _, span in batch]
        answers = self._model.recognise(chunks, [self._language] * len(chunks), words)
        return dict(zip([item for item, _, _ in batch], answers, strict=True))

    def _plan(self, recording: Recording) -> list[Span]:
        samples = _samples(recording)
        if samples is None:
            return []
        if self._detector is None:
            return self._family.plan(samples)
        energy = by_energy(frame_levels(samples))
        asks = [ask for request in _requests(recording, energy.doubtful) for ask in request]
        found = tuple(stretch for ask in asks for stretch in voices(self._detector, ask))
        return self._family.plan(samples, left_out(energy, found, len(samples)))


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
