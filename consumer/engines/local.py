"""A model of our own behind the Engine protocol: cut, batch with everybody else's chunks, hear in a child, merge.

This process imports no torch: models live in ``consumer.workers.engine_child``, one child for each device.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np

from consumer.core.batcher import BUCKET_SECONDS, BatchLimits
from consumer.core.ctc import CtcFamily
from consumer.core.hearing import PCM_TYPE, Family, HeardChunk, ModelInfo, Pcm, Span, Stretches
from consumer.core.languages import primary_code
from consumer.core.model import SAMPLE_RATE, Heard, Recording, Wish
from consumer.core.whisper import WINDOW_SAMPLES, WhisperFamily
from consumer.engines.batch_report import BatchReport
from consumer.engines.children import IN_FLIGHT, EngineChildren
from consumer.engines.dispatcher import Dispatcher, Served
from consumer.engines.silence_gate import SilenceGate, has_gate
from consumer.engines.wire import ChunkAsk, info_from_wire
from consumer.errors import EventError, ReasonedError, RecordingError, ServiceError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason, WarningCode
from schemas.models import Attempt, EngineRef, Recognised

CPU_BATCH_AUDIO_SECONDS = 40.0
"""Padded audio in a batch on a CPU at most: bigger batches gain hardly anything there, and the short recording
behind them waits for all of it."""

_SILENCE_BLOCK = 1 << 20
_LANGUAGES_NAMED = 10


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What is known once the children are up."""

    info: ModelInfo
    family: Family
    dispatcher: Dispatcher[ChunkAsk, HeardChunk]
    chunks_at_once: int
    """Chunks of one recording in the queue and the model at most, so that a long one leaves room for others."""


class LocalEngine:
    """An Engine. ``loader`` (``module:function``, imported by the child) replaces the model of the settings."""

    def __init__(
        self,
        settings: Settings,
        *,
        loader: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[BatchReport[ChunkAsk]], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._observe = observe
        self._family = _family(settings)
        self._children = EngineChildren(settings, _bucket_lengths(settings), loader)
        self._gate = SilenceGate(settings.engine_timeout_seconds) if has_gate(settings) else None
        self._loaded: _Loaded | None = None
        self._probe_file: IO[bytes] | None = None

    @property
    def ref(self) -> EngineRef:
        """What the model says it is; before ``start`` what the settings ask for."""
        if self._loaded:
            return self._loaded.info.ref
        return EngineRef(name=self._settings.engine, model=self._settings.model, revision=self._settings.model_revision)

    @property
    def queued_audio_seconds(self) -> float:
        return self._loaded.dispatcher.queued_audio_seconds if self._loaded else 0.0

    @property
    def full(self) -> bool:
        """The queue has no room: whoever takes in work should pause."""
        return self._loaded is not None and self._loaded.dispatcher.full

    @property
    def child_pids(self) -> list[int]:
        """Processes of the children that are up."""
        return self._children.pids

    def health_age_seconds(self) -> float | None:
        """How long the last good batch is ago; None before the first."""
        at = self._loaded.dispatcher.last_good_batch_at if self._loaded else None
        return None if at is None else self._clock() - at

    def language_of(self, wish: Wish) -> str | None:
        languages = self._up().info.languages
        if languages is not None and len(languages) == 1 and wish.language is None:
            return languages[0]
        wished = wish.language or self._settings.language
        if wished is None:
            return None
        subtag = wished.replace("_", "-").split("-")[0].lower()
        code = subtag if languages is None or subtag in languages else primary_code(wished)
        if languages is not None and code not in languages:
            raise EventError(
                Reason.UNSUPPORTED_LANGUAGE,
                f"the model of engine {self.ref.name} does not know the language {wished!r}, only {_some(languages)}; "
                "publish the event without a language, or to a service with another model",
            )
        return code

    async def start(self) -> None:
        """Start a child for each device, and the gate's; wait for all.

        Raises ReasonedError if one cannot start; none is left.
        """
        try:
            if self._gate is not None:
                await self._gate.start()
            told = await self._children.start()
        except BaseException:
            await self._stop_children()
            raise
        info = info_from_wire(told)
        limits = _limits(self._settings, told["device"], info)
        dispatcher: Dispatcher[ChunkAsk, HeardChunk] = Dispatcher(
            limits,
            self._children.hear,
            executors=len(self._children),
            in_flight=IN_FLIGHT,
            probe=self._new_probe(),
            clock=self._clock,
            observe=self._observe,
        )
        at_once = _chunks_at_once(limits, self._settings.chunk_seconds, told["device"]) * len(self._children)
        self._loaded = _Loaded(info, self._family, dispatcher, at_once)
        dispatcher.start()

    def _new_probe(self) -> ChunkAsk:
        """A second of quiet noise: what a working engine hears whatever it is asked besides."""
        noise = np.random.default_rng(0).integers(-30, 30, SAMPLE_RATE, PCM_TYPE)
        self._probe_file = NamedTemporaryFile(prefix="earwitness-", suffix=".pcm")  # noqa: SIM115 (until the engine stops)
        self._probe_file.write(noise.tobytes())
        self._probe_file.flush()
        return ChunkAsk(Path(self._probe_file.name), 0, SAMPLE_RATE)

    async def stop(self) -> None:
        if self._probe_file is not None:
            self._probe_file.close()
        if self._loaded:
            await self._loaded.dispatcher.stop()
        await self._stop_children()

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        loaded = self._up()
        language = self.language_of(wish)
        began = self._clock()
        spans, skipped = await self._plan(loaded.family, recording)
        if not spans:
            return self._silent(recording, language)
        tasks: list[asyncio.Task[Served[HeardChunk]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                turn = asyncio.Semaphore(loaded.chunks_at_once)
                for span in spans:
                    ask = ChunkAsk(recording.pcm_path, span.start, span.stop, language, span.words, span.left_out)
                    tasks.append(group.create_task(_in_turn(turn, loaded.dispatcher, ask, wish)))
        except ExceptionGroup as failures:
            error = _worst(failures)
            served = [task.result() for task in tasks if not task.cancelled() and task.exception() is None]
            error.attempts.append(self._attempt(recording, error.reason, served, self._clock() - began))
            raise error from failures
        served = [task.result() for task in tasks]
        recognised = await asyncio.to_thread(
            loaded.family.merge, spans, [one.value for one in served], loaded.info, recording.audio_seconds
        )
        if recognised.language is None:
            recognised = recognised.model_copy(update={"language": language})
        if skipped:
            warnings = [*recognised.warnings, WarningCode.SILENCE_SKIPPED.value]
            recognised = recognised.model_copy(update={"warnings": warnings})
        attempt = self._attempt(recording, "ok", served, self._clock() - began)
        infer_seconds = _busy_seconds(served)
        elapsed = max(one.finished for one in served) - min(one.submitted for one in served)
        return Heard(recognised, attempt.cost_usd, [attempt], max(0.0, elapsed - infer_seconds), infer_seconds)

    async def _plan(self, family: Family, recording: Recording) -> tuple[list[Span], bool]:
        """The recording's spans, none if it is silent; and whether the gate has left something out of them."""
        samples = await asyncio.to_thread(_samples, recording)
        if samples is None:
            return [], False
        left_out: Stretches | None = None
        if self._gate is not None:
            left_out = await self._gate.left_out(recording, samples)
        return await asyncio.to_thread(family.plan, samples, left_out), bool(left_out)

    def _up(self) -> _Loaded:
        if self._loaded is None:
            raise TransientError(Reason.ENGINE_FAILED, "the engine is not started; start it first")
        return self._loaded

    async def _stop_children(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._children.stop())
            if self._gate is not None:
                group.create_task(self._gate.stop())

    def _attempt(self, recording: Recording, outcome: str, served: list[Served[HeardChunk]], seconds: float) -> Attempt:
        """The ledger line: the recording's share of engine time at the settings' price."""
        engine_seconds = sum(one.engine_seconds for one in served)
        return Attempt(
            engine=self.ref.name,
            model=self.ref.model,
            outcome=outcome,
            audio_seconds=recording.audio_seconds,
            cost_usd=engine_seconds * self._settings.local_usd_per_hour / 3600,
            price_version="settings",
            usage_source="measured",
            seconds=seconds,
        )

    def _silent(self, recording: Recording, language: str | None) -> Heard:
        """Nothing to hear: no model is asked, so nothing is paid and nothing is made up."""
        recognised = Recognised(
            text="",
            language=language,
            engine=self.ref,
            audio_seconds=recording.audio_seconds,
            warnings=[WarningCode.NO_SPEECH],
        )
        return Heard(recognised, 0.0)


def _some(languages: Sequence[str]) -> str:
    more = len(languages) - _LANGUAGES_NAMED
    return ", ".join(languages[:_LANGUAGES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _family(settings: Settings) -> Family:
    if settings.engine == "ctc":
        try:
            return CtcFamily(settings.chunk_seconds, settings.chunk_overlap_seconds)
        except ValueError as error:
            raise ServiceError(f"{error}; change one of them") from error
    return WhisperFamily(chunk_overlap_seconds=settings.chunk_overlap_seconds, word_times=settings.word_times)


def _bucket_lengths(settings: Settings) -> list[float]:
    """The longest chunk of each length bucket, in seconds; Whisper computes one length only."""
    if settings.engine != "ctc":
        return [WINDOW_SAMPLES / SAMPLE_RATE]
    buckets = math.ceil(settings.chunk_seconds / BUCKET_SECONDS)
    return [min(bucket * BUCKET_SECONDS, settings.chunk_seconds) for bucket in range(1, buckets + 1)]


def _limits(settings: Settings, device: str, info: ModelInfo) -> BatchLimits:
    """What a batch may hold on this device."""
    on_cpu = device == "cpu"
    padded_seconds, max_chunks = settings.batch_audio_seconds, settings.batch_max_chunks
    window_seconds = None if settings.engine == "ctc" else WINDOW_SAMPLES / SAMPLE_RATE
    if on_cpu:
        padded_seconds = min(padded_seconds, CPU_BATCH_AUDIO_SECONDS)
    if on_cpu and settings.engine == "ctranslate2" and window_seconds:
        # this model hears as many windows side by side as it has threads, none slower for the others
        max_chunks = settings.engine_threads or os.cpu_count() or 1
        padded_seconds = max_chunks * window_seconds
    return BatchLimits(
        padded_seconds=padded_seconds,
        max_chunks=min(max_chunks, info.max_batch_chunks or max_chunks),
        max_wait_seconds=settings.batch_wait_ms / 1000,
        queue_seconds=settings.queue_audio_seconds,
        window_seconds=window_seconds,
    )


def _chunks_at_once(limits: BatchLimits, chunk_seconds: float, device: str) -> int:
    """Chunks of one recording under way for each child: one batch, and on a quick device the next one too."""
    batch_chunks = int(limits.padded_seconds / (limits.window_seconds or chunk_seconds))
    return max(1, min(batch_chunks, limits.max_chunks)) * (1 if device == "cpu" else 2)


def _samples(recording: Recording) -> Pcm | None:
    """A map of the recording's samples; None if every one is zero. Reads the file: not on the loop."""
    if recording.samples == 0:
        return None
    try:
        samples: Pcm = np.memmap(recording.pcm_path, PCM_TYPE, mode="r", shape=(recording.samples,))
    except (OSError, ValueError) as error:
        raise TransientError(Reason.ENGINE_FAILED, f"the decoded samples cannot be read: {error}") from error
    blocks = range(0, recording.samples, _SILENCE_BLOCK)
    if not any(np.any(samples[start : start + _SILENCE_BLOCK]) for start in blocks):
        return None
    return samples


async def _in_turn(
    turn: asyncio.Semaphore, dispatcher: Dispatcher[ChunkAsk, HeardChunk], ask: ChunkAsk, wish: Wish
) -> Served[HeardChunk]:
    async with turn:
        return await dispatcher.submit(ask, ask.audio_seconds, urgency=wish.urgency, begins=wish.begins)


def _worst(failures: ExceptionGroup[Exception]) -> ReasonedError:
    """The error that decides: the recording's own fault before what may pass. Raises what nobody foresaw."""
    reasoned = [error for error in failures.exceptions if isinstance(error, ReasonedError)]
    if len(reasoned) < len(failures.exceptions):
        raise failures
    return next((error for error in reasoned if isinstance(error, RecordingError)), reasoned[0])


def _busy_seconds(served: list[Served[HeardChunk]]) -> float:
    """How long at least one of the chunks was in the model; the rest of the time, all of them waited."""
    runs = sorted((one.started, one.finished) for one in served)
    reached = runs[0][0]
    busy = 0.0
    for started, finished in runs:
        busy += max(0.0, finished - max(started, reached))
        reached = max(reached, finished)
    return busy
