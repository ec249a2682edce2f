"""Whisper on CTranslate2: the quickest exact Whisper on a plain CPU.

Runs in the engine child. On a CPU each window is decoded alone, by as many single-threaded workers as there are
cores: quicker than batches there, and a text cannot depend on its peers. On a GPU windows go through in batches.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import download_model
from faster_whisper.feature_extractor import FeatureExtractor

from consumer.core import invented, pauses
from consumer.core.hearing import HeardChunk, HeardWord, ModelInfo, Pcm, Samples, to_samples
from consumer.core.invented import Decoded
from consumer.core.model import SAMPLE_RATE
from consumer.engines import whisper_text
from consumer.engines.whisper_text import Vocabulary
from schemas.models import EngineRef

_WARM_UP_SAMPLES = 16_000


def load(
    model: str, *, revision: str | None, device: str, compute_type: str, threads: int, prompt: str | None = None
) -> "CTranslate2Whisper":
    """Load a converted Whisper and warm it up.

    ``model`` is a local folder, a hub id of a converted model or a size such as ``tiny.en``; ``device`` is ``auto``,
    ``cpu`` or ``cuda:<n>``; ``threads`` are CPU workers, 0: one for each core; ``prompt`` gives names and terms in
    their spelling.
    """
    folder = Path(model) if Path(model).is_dir() else Path(download_model(model, revision=revision))
    kind, index = _device(device)
    compute = _compute_type(compute_type, kind)
    workers = (threads or os.cpu_count() or 1) if kind == "cpu" else 1
    whisper = ctranslate2.models.Whisper(
        str(folder), device=kind, device_index=index, compute_type=compute, inter_threads=workers, intra_threads=1
    )
    vocabulary = Vocabulary.read(folder / "tokenizer.json", multilingual=whisper.is_multilingual, terms=prompt)
    quantization = None if compute == "float32" else compute
    ref = EngineRef(name="ctranslate2", model=model, revision=revision, quantization=quantization)
    loaded = CTranslate2Whisper(whisper, vocabulary, ref, workers=workers, batched=kind == "cuda")
    loaded.recognise([np.zeros(_WARM_UP_SAMPLES, np.int16)] * workers, ["en"] * workers, [True] * workers)
    return loaded


@dataclass(frozen=True, slots=True)
class _Ask:
    """A window with what is wanted of it."""

    features: np.ndarray
    language: str | None
    words: bool
    chunk: Samples


class CTranslate2Whisper:
    """A Model; greedy and without time-stamp tokens. ``recognise`` is for ``batches_at_once`` callers at a time."""

    def __init__(
        self,
        whisper: ctranslate2.models.Whisper,
        vocabulary: Vocabulary,
        ref: EngineRef,
        *,
        workers: int,
        batched: bool,
    ) -> None:
        self.info = ModelInfo(ref=ref, languages=vocabulary.languages)
        self._whisper = whisper
        self._vocabulary = vocabulary
        self._batched = batched
        # on a CPU the second batch fills the workers that the first one's last windows leave idle
        self.batches_at_once = 1 if batched else 2
        self._features = FeatureExtractor(feature_size=whisper.n_mels)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="whisper")

    def recognise(self, chunks: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        """Hear a batch; chunks of at most 30 s each, one window each."""
        wanted = zip(map(to_samples, chunks), languages, words, strict=True)
        if not self._batched:
            return list(self._pool.map(lambda one: self._hear([self._ask(*one)])[0], wanted))
        asks = list(self._pool.map(lambda one: self._ask(*one), wanted))
        return self._hear(asks) if asks else []

    def _ask(self, chunk: Samples, language: str | None, words: bool) -> _Ask:
        # silence is added to the sound, as in training, not to the spectrogram
        features = self._features(whisper_text.in_window(chunk), padding=0)[:, : whisper_text.WINDOW_FRAMES]
        return _Ask(np.ascontiguousarray(features, np.float32), language, words, chunk)

    def _hear(self, asks: list[_Ask]) -> list[HeardChunk]:
        encoded = self._whisper.encode(_storage(asks))
        languages = self._languages(encoded, asks)
        heard = self._generate(encoded, languages, self._vocabulary.before(), beam_size=1)
        return [
            self._finish(ask, one, tokens, encoded if len(asks) == 1 else None)
            for ask, (one, tokens) in zip(asks, heard, strict=True)
        ]

    def _languages(self, encoded: ctranslate2.StorageView, asks: list[_Ask]) -> list[str]:
        if not self._vocabulary.multilingual:
            return [self._vocabulary.languages[0]] * len(asks)
        if all(ask.language for ask in asks):
            return [ask.language or "" for ask in asks]
        detected = self._whisper.detect_language(encoded)
        return [ask.language or found[0][0][2:-2] for ask, found in zip(asks, detected, strict=True)]

    def _generate(
        self,
        encoded: ctranslate2.StorageView,
        languages: list[str],
        before: list[int],
        *,
        beam_size: int,
        no_repeat_ngram_size: int = 0,
    ) -> list[Decoded]:
        """What was heard, without words, and the text's tokens; ``before`` is what the model is told was said."""
        asked = [[*before, *self._vocabulary.prompt(one), self._vocabulary.no_timestamps()] for one in languages]
        results = self._whisper.generate(
            encoded,
            asked,
            beam_size=beam_size,
            no_repeat_ngram_size=no_repeat_ngram_size,
            max_length=whisper_text.MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [self._heard(result, language) for result, language in zip(results, languages, strict=True)]

    def _heard(self, result: ctranslate2.models.WhisperGenerationResult, language: str) -> Decoded:
        tokens = list(result.sequences_ids[0])
        # the score is a mean over the tokens without the end mark, which was chosen too
        mean_logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        chunk = HeardChunk(
            text=self._vocabulary.text(tokens),
            mean_logprob=float(mean_logprob),
            no_speech_probability=float(result.no_speech_prob),
            tokens=len(tokens) + 1,
            language=language,
        )
        return chunk, self._vocabulary.spoken(tokens)

    def _finish(
        self, ask: _Ask, heard: HeardChunk, tokens: list[int], encoded: ctranslate2.StorageView | None
    ) -> HeardChunk:
        """Guard against made-up text and add word times; both for this window alone."""

        @cache
        def alone() -> ctranslate2.StorageView:
            return self._whisper.encode(_storage([ask])) if encoded is None else encoded

        def again(no_repeat_ngram_size: int) -> Decoded:
            # without the terms: they may be what led the model astray
            [decoded] = self._generate(
                alone(),
                [heard.language or ""],
                [],
                beam_size=invented.RETRY_BEAM,
                no_repeat_ngram_size=no_repeat_ngram_size,
            )
            return decoded

        sounding_seconds = pauses.sounding_seconds(pauses.frame_levels(ask.chunk))
        believed, tokens = invented.guarded((heard, tokens), sounding_seconds, again)
        return replace(believed, words=self._words(ask, alone, believed, tokens)) if ask.words else believed

    def _words(
        self, ask: _Ask, encoded: Callable[[], ctranslate2.StorageView], heard: HeardChunk, tokens: list[int]
    ) -> tuple[HeardWord, ...]:
        if not tokens:
            return ()
        language = heard.language or ""
        aligned = self._whisper.align(
            encoded(),
            [*self._vocabulary.before(), *self._vocabulary.prompt(language)],
            [tokens],
            whisper_text.mel_frames(ask.chunk),
        )[0]
        path = np.array(aligned.alignments, np.intp).reshape(-1, 2)
        audio_seconds = len(ask.chunk) / SAMPLE_RATE
        return self._vocabulary.words(tokens, language, path, aligned.text_token_probs, audio_seconds)


def _storage(asks: list[_Ask]) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.stack([ask.features for ask in asks]))


def _device(device: str) -> tuple[str, int]:
    if device == "auto":
        return ("cuda", 0) if ctranslate2.get_cuda_device_count() else ("cpu", 0)
    kind, _, index = device.partition(":")
    return kind, int(index or 0)


def _compute_type(wanted: str, kind: str) -> str:
    if wanted != "auto":
        return wanted
    if kind == "cpu":
        return "int8"
    return "bfloat16" if "bfloat16" in ctranslate2.get_supported_compute_types(kind) else "float16"
