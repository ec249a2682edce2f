"""wav2vec2 of the true size with random weights on a bare machine: speed, share of the chip, padding, idleness.

``python -m tests.bench.gpu [--device cuda|cpu] [--size large|base|tiny] [--dtype bfloat16] [--audio-seconds 7200]
[--variants eager,compile,graphs] [--batch-audio-seconds 160,320,640] [--max-chunks 64] [--out FILE.json]``: needs
torch, transformers, numpy and this repository, and no network. Chunks of the usual mix go through the service's own
batcher and network: int16 to the device, normalising, the model, the best id and its certainty, and back.

*Idle* is the share of time in which the device had no batch before it, by events around each batch; gaps between the
kernels of one batch count as work. *Peak* is what the padded and the unpadded audio took of the chip's dense bf16.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from consumer.core.batcher import Batcher, BatchLimits
from consumer.engines import ctc_compile
from consumer.engines.ctc_network import CtcNetwork, Launched, Recogniser, Run, Sound
from tests.bench.mix import lengths, pieces
from tests.bench.report import write_json

SAMPLE_RATE = 16_000
CHUNK_SECONDS = 20.0
"""The service's longest chunk, as its settings have it."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (32,) * 7,
        "num_conv_pos_embedding_groups": 4,
    },
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bf16 a second, from NVIDIA's data sheets, which name twice that for sparse matrices; the first that fits."""
COUNTED_SECONDS = (5.0, 20.0)
INVARIANCE_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one way to run the network, at one size of batch."""

    variant: str
    batch_audio_seconds: float
    realtime: float
    share_of_peak: float | None
    """By the FLOPs that the audio itself needs; None where the chip's peak is not known."""
    share_of_peak_computed: float | None
    """With the padding's."""
    padding: float
    """Seconds computed for each second of audio, padding up to a graph's shape included."""
    idle: float
    chunks_a_batch: float


@dataclass(frozen=True, slots=True)
class Invariance:
    """A chunk alone against the same chunk in a batch."""

    tokens: int
    equal: float
    """Share of tokens that are the same alone and in a batch."""
    error: float
    """Largest difference of a log-probability between this type, alone, and float32."""
    sure: int
    """Tokens whose margin over the second-best is in float32 more than twice that error."""
    sure_equal: float
    """Share of those that are in a batch what they are in float32."""


class Timed:
    """A Run that knows how long the device was at work, by events; on a CPU by the clock."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run = run
        self._cuda = device.type == "cuda"
        self._events: list[tuple[Any, Any]] = []
        self._seconds = 0.0

    def __call__(self, samples: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        if not self._cuda:
            began = time.perf_counter()
            answers = self._run(samples, sizes)
            self._seconds += time.perf_counter() - began
            return answers
        began_event, ended_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began_event.record()
        answers = self._run(samples, sizes)
        ended_event.record()
        self._events.append((began_event, ended_event))
        return answers

    def busy_seconds(self) -> float:
        """At work since the last call; the device is done with all of it."""
        busy: float = self._seconds + sum(began.elapsed_time(ended) for began, ended in self._events) / 1000
        self._seconds = 0.0
        self._events.clear()
        return busy


def recogniser(size: str, device: str, dtype: torch.dtype) -> Recogniser:
    """Random weights, always the same ones. With wav2vec2-large-960h's shape and group norm, 315 million."""
    torch.manual_seed(7)
    network = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, pad_token_id=0, **SHAPES[size]))
    with torch.no_grad():
        network.lm_head.weight.normal_(std=1.0)  # else every frame says the same
    return Recogniser(network, normalise=True).to(device, dtype)


def flops_of(size: str) -> Callable[[float], float]:
    """FLOPs of one chunk by its seconds: what grows with the length, and attention, which grows with its square.

    Counted by torch at two lengths, without computing anything.
    """
    with torch.device("meta"):
        network = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, pad_token_id=0, **SHAPES[size])).eval()
        counted = []
        for seconds in COUNTED_SECONDS:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(torch.empty(1, int(seconds * SAMPLE_RATE)))
            counted.append(counter.get_total_flops() / seconds)
    slope = (counted[1] - counted[0]) / (COUNTED_SECONDS[1] - COUNTED_SECONDS[0])
    level = counted[0] - slope * COUNTED_SECONDS[0]
    return lambda seconds: seconds * (level + slope * seconds)


def batches(audio_seconds: float, limits: BatchLimits, seed: int = 1) -> list[list[Sound]]:
    """Noise of the usual lengths, in the batches that a saturated batcher makes of it."""
    random = np.random.default_rng(seed)
    noise = random.integers(-3000, 3000, int(CHUNK_SECONDS * SAMPLE_RATE) + 1, np.int16)
    batcher: Batcher[Sound] = Batcher(limits)
    while batcher.queued_audio_seconds < audio_seconds:
        for seconds in pieces(lengths(1, random)[0], CHUNK_SECONDS):
            batcher.add(noise[: int(seconds * SAMPLE_RATE)], seconds, critical=False, now=0.0)
    batcher.drain()
    found = []
    while (batch := batcher.take(0.0)) is not None:
        found.append(batch.items)
    return found


def hear(network: CtcNetwork, work: Sequence[Sequence[Sound]]) -> None:
    """All batches: while the device works on one, the next travels and the answers of the last are read."""
    last: Launched | None = None
    staged = network.stage(work[0]) if work else None
    for number in range(len(work)):
        assert staged is not None
        launched = network.launch(staged)
        staged = network.stage(work[number + 1]) if number + 1 < len(work) else None
        if last is not None:
            network.collect(last)
        last = launched
    if last is not None:
        network.collect(last)


def run_of(variant: str, model: Recogniser, device: str) -> Run:
    """The network as it is, compiled, or in CUDA graphs of fixed shapes."""
    if variant == "eager":
        return model
    compiled = ctc_compile.compiled(model)
    if variant == "compile":
        return compiled
    return ctc_compile.FixedShapes(compiled, device)


def measure(
    variant: str,
    model: Recogniser,
    work: Sequence[Sequence[Sound]],
    limits: BatchLimits,
    flops: Callable[[float], float],
) -> Row:
    """Once to warm up, compile and capture; then by the clock."""
    device = next(model.parameters()).device
    run = run_of(variant, model, str(device))
    timed = Timed(run, device)
    network = CtcNetwork(model, str(device), run=timed)
    hear(network, work)
    timed.busy_seconds()
    if isinstance(run, ctc_compile.FixedShapes):
        run.asked_samples = run.computed_samples = 0
    began = time.perf_counter()
    hear(network, work)
    took = time.perf_counter() - began
    sizes = [[chunk.size / SAMPLE_RATE for chunk in batch] for batch in work]
    audio = sum(map(sum, sizes))
    computed = sum(len(batch) * max(batch) for batch in sizes)
    if isinstance(run, ctc_compile.FixedShapes):
        computed += (run.computed_samples - run.asked_samples) / SAMPLE_RATE
    needed = sum(flops(seconds) for batch in sizes for seconds in batch)
    peak = peak_flops(device)
    return Row(
        variant=variant,
        batch_audio_seconds=limits.padded_seconds,
        realtime=audio / took,
        share_of_peak=needed / took / peak if peak else None,
        share_of_peak_computed=sum(len(one) * flops(max(one)) for one in sizes) / took / peak if peak else None,
        padding=computed / audio,
        idle=max(0.0, 1 - timed.busy_seconds() / took),
        chunks_a_batch=sum(map(len, sizes)) / len(sizes),
    )


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 of the chip; None for a chip that the table does not know."""
    if device.type != "cuda":
        return None
    named = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAK_FLOPS.items() if name in named), None)


def invariance(size: str, model: Recogniser) -> Invariance:
    """The margin rule: where float32 is surer than this type's own error, a batch must say what float32 says."""
    device = str(next(model.parameters()).device)
    exact = CtcNetwork(recogniser(size, device, torch.float32), device)
    network = CtcNetwork(model, device)
    random = np.random.default_rng(2)
    sizes = [int(seconds * SAMPLE_RATE) for seconds in lengths(INVARIANCE_CHUNKS, random)]
    chunks = [random.integers(-3000, 3000, min(count, int(CHUNK_SECONDS * SAMPLE_RATE)), np.int16) for count in sizes]
    truth = torch.cat([exact.log_probabilities([chunk])[0] for chunk in chunks])
    alone = torch.cat([network.log_probabilities([chunk])[0] for chunk in chunks])
    together = torch.cat(network.log_probabilities(chunks))
    best = truth.topk(2, dim=-1)
    error = float((alone - truth).abs().max())
    sure = best.values[:, 0] - best.values[:, 1] > 2 * error
    right = together.argmax(-1) == best.indices[:, 0]
    return Invariance(
        tokens=len(truth),
        equal=float((together.argmax(-1) == alone.argmax(-1)).float().mean()),
        error=error,
        sure=int(sure.sum()),
        sure_equal=float(right[sure].float().mean()) if bool(sure.any()) else 1.0,
    )


def table(rows: Sequence[Row]) -> str:
    """The figures for people."""
    head = (
        f"{'variant':8} {'batch s':>7} {'× real time':>11} {'peak':>6} {'padded':>6} {'padding':>7} {'idle':>6} chunks"
    )
    lines = [
        f"{row.variant:8} {row.batch_audio_seconds:7.0f} {row.realtime:11,.0f} {_share(row.share_of_peak):>6} "
        f"{_share(row.share_of_peak_computed):>6} {row.padding:7.3f} {row.idle:6.1%} {row.chunks_a_batch:6.1f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=SHAPES, default="large")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--variants", default="eager,compile,graphs", help="graphs needs a GPU")
    parser.add_argument("--audio-seconds", type=float, default=7200.0)
    parser.add_argument("--batch-audio-seconds", default="160,320,640")
    parser.add_argument("--max-chunks", type=int, default=64)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    device = "cuda:0" if asked.device == "cuda" else asked.device
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    model, flops = recogniser(asked.size, device, getattr(torch, asked.dtype)), flops_of(asked.size)
    named = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    print(f"{named}, wav2vec2-{asked.size} {asked.dtype}, {flops(10.0) / 10 / 1e9:.1f} GFLOP an audio second at 10 s")
    rows = []
    for budget in map(float, asked.batch_audio_seconds.split(",")):
        limits = BatchLimits(budget, asked.max_chunks, max_wait_seconds=0.03, queue_seconds=float("inf"))
        work = batches(asked.audio_seconds, limits)
        rows += [measure(variant, model, work, limits, flops) for variant in asked.variants.split(",")]
    print(table(rows))
    same = invariance(asked.size, model)
    print(f"alone against in a batch: {same.equal:.2%} of {same.tokens} tokens equal")
    print(f"in a batch against float32: {same.sure_equal:.2%} of {same.sure} sure tokens equal")
    if asked.out is not None:
        figures = {"device": named, "rows": [asdict(row) for row in rows], "invariance": asdict(same)}
        write_json(asked.out, "tests.bench.gpu", arguments, figures)


if __name__ == "__main__":
    main()
