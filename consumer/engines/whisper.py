"""Whisper on transformers: any Whisper of the hub as it is, in bfloat16 on a GPU or float32 on a CPU.

Runs in the engine child. Windows of several recordings go through together; the decoding is greedy, without
time-stamp tokens. After it, one pass over the finished tokens says how likely they were and, where wanted, when.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from consumer.core import invented, pauses
from consumer.core.hearing import HeardChunk, HeardWord, ModelInfo, Pcm, Samples, to_samples
from consumer.core.invented import Decoded
from consumer.core.model import SAMPLE_RATE
from consumer.engines import whisper_cache, whisper_text
from consumer.engines.whisper_alignment import align
from consumer.engines.whisper_cache import STATIC_ROWS, Cache
from consumer.engines.whisper_text import Vocabulary
from schemas.models import EngineRef

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    model: str, *, revision: str | None, device: str, compute_type: str, threads: int, prompt: str | None = None
) -> "TransformersWhisper":
    """Load a Whisper from the hub or a local folder and warm it up.

    ``device`` is ``auto``, ``cpu`` or ``cuda:<n>``; ``compute_type`` ``auto`` means bfloat16 on a GPU, float32 on a
    CPU; ``threads`` are the CPU's, 0: all cores; ``prompt`` gives names and terms in their spelling.
    Raises ValueError for what this engine does not serve.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: TF32 rounds differently in each batch size
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if compute_type == "auto":
        compute_type = "bfloat16" if device.startswith("cuda") else "float32"
    if compute_type not in _TYPES:
        raise ValueError(
            f"compute_type {compute_type} is not available for whisper: use ctranslate2 or one of {list(_TYPES)}"
        )
    source: dict[str, Any] = {"revision": revision, "local_files_only": Path(model).is_dir()}
    network = WhisperForConditionalGeneration.from_pretrained(
        model, dtype=_TYPES[compute_type], attn_implementation="sdpa", **source
    )
    tokenizer = Path(cached_file(model, "tokenizer.json", **source))
    vocabulary = Vocabulary.read(tokenizer, multilingual=_is_multilingual(network), terms=prompt)
    ref = EngineRef(
        name="whisper",
        model=model,
        revision=getattr(network.config, "_commit_hash", None) or revision,
        quantization=None if compute_type == "float32" else compute_type,
    )
    extractor = WhisperFeatureExtractor.from_pretrained(model, **source)
    loaded = TransformersWhisper(network.to(device).eval(), extractor, vocabulary, ref)
    if whisper_cache.may_be_static(device):
        loaded.choose_cache()
    loaded.recognise([np.zeros(SAMPLE_RATE, np.int16)], [None], [True])
    return loaded


class TransformersWhisper:
    """A Model; not safe for several callers at once."""

    def __init__(self, network: Any, extractor: Any, vocabulary: Vocabulary, ref: EngineRef) -> None:
        self.info = ModelInfo(ref=ref, languages=vocabulary.languages)
        self._network = network
        self._extractor = extractor
        self._vocabulary = vocabulary
        self._heads = _alignment_heads(network)
        self._generation = _generation_config(network, vocabulary)
        self._cache: Cache = "dynamic"
        self._most_tokens = min(whisper_text.MAX_TOKENS, int(network.config.max_target_positions))
        self._silenced = torch.tensor(self._generation.suppress_tokens or [], device=network.device, dtype=torch.long)

    @torch.inference_mode()
    def choose_cache(self) -> None:
        """Measure which cache decodes a full batch of the longest texts quicker, and keep to that one."""
        encoded = self._encode([np.zeros(SAMPLE_RATE, np.float32)] * STATIC_ROWS)
        language = self._vocabulary.languages[0]
        asked = [*self._vocabulary.before(), *self._vocabulary.prompt(language), self._vocabulary.no_timestamps()]

        def run(cache: Cache) -> Callable[[], object]:
            least = self._room(asked)
            return lambda: self._decoded(encoded, [asked] * STATIC_ROWS, cache, min_new_tokens=least)

        self._cache = whisper_cache.quicker({"dynamic": run("dynamic"), "static": run("static")}, time.monotonic)

    @torch.inference_mode()
    def recognise(self, pcm: list[Pcm], languages: list[str | None], words: list[bool]) -> list[HeardChunk]:
        """Hear a batch; chunks of at most 30 s each, one window each."""
        if not pcm:
            return []
        chunks = [to_samples(chunk) for chunk in pcm]
        encoded = self._encode(chunks)
        spoken = self._languages(encoded, languages)
        heard = self._generate(encoded, spoken, self._vocabulary.before())
        return [
            self._finish(encoded[index : index + 1], chunk, decoded, words=wanted)
            for index, (chunk, decoded, wanted) in enumerate(zip(chunks, heard, words, strict=True))
        ]

    def _finish(self, encoded: torch.Tensor, chunk: Samples, decoded: Decoded, *, words: bool) -> HeardChunk:
        """Guard against made-up text and add word times; both for this window alone."""

        def again(no_repeat_ngram_size: int) -> Decoded:
            options = {"num_beams": invented.RETRY_BEAM, "no_repeat_ngram_size": no_repeat_ngram_size}
            # without the terms: they may be what led the model astray
            return self._generate(encoded, [decoded[0].language or ""], [], **options)[0]

        sounding_seconds = pauses.sounding_seconds(pauses.frame_levels(chunk))
        believed, tokens = invented.guarded(decoded, sounding_seconds, again)
        return replace(believed, words=self._words(encoded, chunk, believed, tokens)) if words else believed

    def _encode(self, chunks: list[Samples]) -> torch.Tensor:
        windows = [whisper_text.in_window(chunk) for chunk in chunks]
        features = self._extractor(windows, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        features = features.to(self._network.device, self._network.dtype)
        encoded: torch.Tensor = self._network.model.encoder(features).last_hidden_state
        return encoded

    def _languages(self, encoded: torch.Tensor, wished: list[str | None]) -> list[str]:
        if not self._vocabulary.multilingual:
            return [self._vocabulary.languages[0]] * len(wished)
        codes = self._vocabulary.language_ids()
        ids = list(codes)
        start = torch.tensor([self._vocabulary.prompt(codes[ids[0]])[:1]] * len(wished), device=encoded.device)
        logits = self._network.proj_out(self._decode(start, encoded).last_hidden_state[:, 0])
        detected = logits[:, ids].argmax(dim=-1).tolist()
        return [wish or codes[ids[best]] for wish, best in zip(wished, detected, strict=True)]

    def _generate(
        self, encoded: torch.Tensor, languages: list[str], before: list[int], **options: int
    ) -> list[Decoded]:
        """What was heard, without words, and the text's tokens; ``before`` is what the model is told was said."""
        prompts = [[*before, *self._vocabulary.prompt(one), self._vocabulary.no_timestamps()] for one in languages]
        fits = not options and len(prompts) <= STATIC_ROWS  # a second hearing has other rows: its beams
        cache = self._cache if fits else "dynamic"
        sequences = self._decoded(encoded, prompts, cache, **options)
        end, asked = self._vocabulary.end(), len(prompts[0])
        for sequence in sequences:
            if end in sequence[asked:]:
                del sequence[sequence.index(end, asked) + 1 :]
        likely = self._likelihoods(encoded, sequences, asked, start=len(before))
        return [
            self._heard(sequence[asked:], language, *measures)
            for sequence, language, measures in zip(sequences, languages, likely, strict=True)
        ]

    def _decoded(
        self, encoded: torch.Tensor, prompts: list[list[int]], cache: Cache, **options: int
    ) -> list[list[int]]:
        """Prompt, text and padding of each row."""
        rows = len(prompts)
        spare = STATIC_ROWS - rows if cache == "static" else 0
        # the plain generation: Whisper's own adds a search over windows and temperatures that does not batch
        sequences: list[list[int]] = GenerationMixin.generate(
            self._network,
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.cat([encoded, *[encoded[:1]] * spare])),
            decoder_input_ids=torch.tensor([*prompts, *prompts[:1] * spare], device=encoded.device),
            generation_config=self._generation,
            cache_implementation="static" if cache == "static" else None,
            max_new_tokens=self._room(prompts[0]),
            **options,
        ).tolist()
        return sequences[:rows]

    def _room(self, asked: list[int]) -> int:
        """Tokens that an answer may have."""
        return min(whisper_text.MAX_TEXT_TOKENS, self._most_tokens - len(asked))

    def _heard(self, tokens: list[int], language: str, mean_logprob: float, no_speech: float) -> Decoded:
        chunk = HeardChunk(
            text=self._vocabulary.text(tokens),
            mean_logprob=mean_logprob,
            no_speech_probability=no_speech,
            tokens=len(tokens),
            language=language,
        )
        return chunk, self._vocabulary.spoken(tokens)

    def _likelihoods(
        self, encoded: torch.Tensor, sequences: list[list[int]], asked: int, *, start: int
    ) -> list[tuple[float, float]]:
        """For each sequence the mean log-probability of its answer, and the probability that nobody speaks.

        ``asked`` tokens of it were given, of them ``start`` before the start mark, whose answer tells of speech.
        """
        longest = max(map(len, sequences))
        padded = [[*sequence, *[self._vocabulary.end()] * (longest - len(sequence))] for sequence in sequences]
        states = self._decode(torch.tensor(padded, device=encoded.device), encoded).last_hidden_state
        measured: list[tuple[float, float]] = []
        for state, sequence in zip(states, sequences, strict=True):
            logits = self._network.proj_out(state[: len(sequence)]).float()
            no_speech = logits[start].softmax(dim=-1)[self._vocabulary.no_speech()]
            logits[:, self._silenced] = -torch.inf
            chosen = torch.tensor(sequence[asked:], device=encoded.device)
            logprobs = logits[asked - 1 : -1].log_softmax(dim=-1).gather(1, chosen[:, None])
            measured.append((float(logprobs.mean()), float(no_speech)))
        return measured

    def _words(
        self, encoded: torch.Tensor, chunk: Samples, heard: HeardChunk, tokens: list[int]
    ) -> tuple[HeardWord, ...]:
        if not tokens:
            return ()
        language = heard.language or ""
        asked = [*self._vocabulary.before(), *self._vocabulary.prompt(language), self._vocabulary.no_timestamps()]
        self._network.set_attn_implementation("eager")  # the fused kernels keep their attention to themselves
        try:
            ids = torch.tensor([[*asked, *tokens]], device=encoded.device)
            seen = self._decode(ids, encoded, output_attentions=True)
        finally:
            self._network.set_attn_implementation("sdpa")
        positions = max(1, whisper_text.mel_frames(chunk) // 2)
        # the position before a token is where it is chosen, so the rows end with the end mark's
        rows = [seen.cross_attentions[layer][0, head, len(asked) - 1 :, :positions] for layer, head in self._heads]
        path = align(torch.stack(rows).float().cpu().numpy())
        logits = self._network.proj_out(seen.last_hidden_state[0, len(asked) - 1 : -1]).float()
        chosen = torch.tensor(tokens, device=encoded.device)
        probabilities = logits.softmax(dim=-1).gather(1, chosen[:, None])[:, 0].tolist()
        return self._vocabulary.words(tokens, language, path, probabilities, len(chunk) / SAMPLE_RATE)

    def _decode(self, ids: torch.Tensor, encoded: torch.Tensor, **options: bool) -> Any:
        return self._network.model.decoder(input_ids=ids, encoder_hidden_states=encoded, use_cache=False, **options)


def _is_multilingual(network: Any) -> bool:
    # the English models lack the one token that separates task from language in the others
    return int(network.config.vocab_size) >= 51865


def _alignment_heads(network: Any) -> list[tuple[int, int]]:
    """The heads that follow the sound; for a model that names none, all of the upper half, as OpenAI does."""
    named = getattr(network.generation_config, "alignment_heads", None)
    if named:
        return [(int(layer), int(head)) for layer, head in named]
    layers, heads = network.config.decoder_layers, network.config.decoder_attention_heads
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def _generation_config(network: Any, vocabulary: Vocabulary) -> GenerationConfig:
    own = network.generation_config
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=vocabulary.end(),
        pad_token_id=vocabulary.end(),
        decoder_start_token_id=own.decoder_start_token_id,
        suppress_tokens=list(own.suppress_tokens or []) or None,
        begin_suppress_tokens=list(own.begin_suppress_tokens or []) or None,
    )
