"""How others do it with the same weights: one file after another, the ASR pipeline of transformers, faster-whisper."""

import time
from collections.abc import Callable
from typing import Any

import librosa

from consumer.core.hearing import Samples
from tests.bench.clips import Clip
from tests.bench.contestants import (
    BATCHED_CHUNKS,
    PIPELINE_BATCHES,
    SAMPLE_RATE,
    SEARCH_CLIPS,
    WINDOW_SECONDS,
    Hears,
    Spec,
    torch_on,
)


def decoded(clip: Clip) -> Samples:
    """A recording as the tutorials read it; by FFmpeg where that fails, as it does for GSM in WAV."""
    try:
        samples: Samples = librosa.load(clip.path, sr=SAMPLE_RATE, mono=True)[0]
    except ValueError:
        return _by_ffmpeg(clip)
    return samples if len(samples) else _by_ffmpeg(clip)


def _by_ffmpeg(clip: Clip) -> Samples:
    from faster_whisper import decode_audio

    samples: Samples = decode_audio(str(clip.path), sampling_rate=SAMPLE_RATE)
    return samples


def cuts(samples: Samples) -> list[Samples]:
    """Pieces of 30 s, wherever that falls."""
    step = int(WINDOW_SECONDS * SAMPLE_RATE)
    return [samples[start : start + step] for start in range(0, len(samples), step)]


def one_by_one(spec: Spec, clips: list[Clip]) -> Hears:
    """The usual first version; for CTranslate2's layout that is faster-whisper's plain call."""
    if spec.engine == "ctranslate2":
        return FasterWhisper(spec, clips)
    return CtcOneByOne(spec) if spec.engine == "ctc" else WhisperOneByOne(spec)


class CtcOneByOne:
    """Processor, network, argmax, decode: as in the model cards. ``int8``: its Linear layers made dynamic."""

    at_once = 1
    note = ""

    def __init__(self, spec: Spec) -> None:
        from transformers import AutoModelForCTC, AutoProcessor

        self._torch = torch_on(spec)
        self._processor = AutoProcessor.from_pretrained(spec.model)
        int8 = spec.compute_type == "int8"
        self._type = getattr(self._torch, "float32" if int8 else spec.compute_type)
        network = AutoModelForCTC.from_pretrained(spec.model, dtype=self._type).to(spec.device).eval()
        if int8:
            network = self._torch.ao.quantization.quantize_dynamic(network, {self._torch.nn.Linear})
        self._network, self._device = network, spec.device

    def hear(self, clips: list[Clip]) -> list[str]:
        return [" ".join(map(self._one, cuts(decoded(clip)))) for clip in clips]

    def _one(self, samples: Samples) -> str:
        with self._torch.inference_mode():
            values = self._processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
            logits = self._network(values.to(self._device, self._type)).logits
        text: str = self._processor.batch_decode(logits.argmax(-1).cpu())[0]
        return text


class WhisperOneByOne:
    """Processor, generate, decode; greedy."""

    at_once = 1
    note = ""

    def __init__(self, spec: Spec) -> None:
        from transformers import WhisperForConditionalGeneration

        self._torch = torch_on(spec)
        self._extractor, self._tokenizer = whisper_parts(spec)
        self._type = getattr(self._torch, spec.compute_type)
        network = WhisperForConditionalGeneration.from_pretrained(spec.model, dtype=self._type)
        self._network, self._device = network.to(spec.device).eval(), spec.device

    def hear(self, clips: list[Clip]) -> list[str]:
        return [" ".join(map(self._one, cuts(decoded(clip)))) for clip in clips]

    def _one(self, samples: Samples) -> str:
        with self._torch.inference_mode():
            features = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            ids = self._network.generate(features.to(self._device, self._type), num_beams=1, do_sample=False)
        text: str = self._tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        return text.strip()


class Pipeline:
    """``pipeline("automatic-speech-recognition")`` with the quickest of a few batch sizes."""

    def __init__(self, spec: Spec, clips: list[Clip]) -> None:
        from transformers import AutoTokenizer, pipeline

        torch = torch_on(spec)
        parts: dict[str, Any] = {}
        if spec.engine == "whisper":
            parts["feature_extractor"], parts["tokenizer"] = whisper_parts(spec)
        else:
            parts["tokenizer"] = AutoTokenizer.from_pretrained(spec.model)
        self._pipe = pipeline(
            "automatic-speech-recognition",
            model=spec.model,
            dtype=getattr(torch, spec.compute_type),
            device=spec.device,
            **parts,
        )
        greedy = {"num_beams": 1, "do_sample": False}
        self._options: dict[str, Any] = {"generate_kwargs": greedy} if spec.engine == "whisper" else {}
        if any(clip.seconds > WINDOW_SECONDS for clip in clips):
            self._options["chunk_length_s"] = WINDOW_SECONDS
        self.at_once = len(clips)
        self._hear_in(1, clips[:1])
        self._batch = quickest(self._hear_in, PIPELINE_BATCHES, clips[:SEARCH_CLIPS])
        self.note = f"batch {self._batch}"

    def hear(self, clips: list[Clip]) -> list[str]:
        return self._hear_in(self._batch, clips)

    def _hear_in(self, batch: int, clips: list[Clip]) -> list[str]:
        given = ({"raw": decoded(clip), "sampling_rate": SAMPLE_RATE} for clip in clips)
        return [said["text"].strip() for said in self._pipe(given, batch_size=batch, **self._options)]


class FasterWhisper:
    """``WhisperModel.transcribe``, one file after another; greedy, no time-stamp tokens, its guards as they are."""

    at_once = 1
    note = ""

    def __init__(self, spec: Spec, _clips: list[Clip]) -> None:
        from faster_whisper import WhisperModel

        kind, _, index = spec.device.partition(":")
        self._language = spec.language
        self._model: Any = WhisperModel(
            spec.model,
            device=kind,
            device_index=int(index or 0),
            compute_type=spec.compute_type,
            cpu_threads=spec.threads,
        )

    def hear(self, clips: list[Clip]) -> list[str]:
        return [self._text(self._model.transcribe(str(clip.path), **self._wishes())) for clip in clips]

    def _wishes(self) -> dict[str, Any]:
        return {"language": self._language, "beam_size": 1, "without_timestamps": True}

    def _text(self, answer: Any) -> str:
        return " ".join(segment.text.strip() for segment in answer[0])


class FasterWhisperBatched(FasterWhisper):
    """``BatchedInferencePipeline``: batches of the pieces of one recording, with its voice detection, as it comes."""

    def __init__(self, spec: Spec, clips: list[Clip]) -> None:
        from faster_whisper import BatchedInferencePipeline

        super().__init__(spec, clips)
        self._model = BatchedInferencePipeline(self._model)

    def _wishes(self) -> dict[str, Any]:
        return {**super()._wishes(), "batch_size": BATCHED_CHUNKS}


def quickest(hear: Callable[[int, list[Clip]], object], sizes: tuple[int, ...], clips: list[Clip]) -> int:
    """The batch size that hears the clips soonest."""

    def seconds(size: int) -> float:
        began = time.monotonic()
        hear(size, clips)
        return time.monotonic() - began

    return min(sizes, key=seconds)


def whisper_parts(spec: Spec) -> tuple[Any, Any]:
    """Feature extractor and tokenizer, also of a folder that has no more than ``tokenizer.json``."""
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    tokenizer = WhisperTokenizer.from_pretrained(spec.model)
    tokenizer.pad_token = tokenizer.eos_token  # without one the pipeline makes no batches
    return WhisperFeatureExtractor.from_pretrained(spec.model), tokenizer
