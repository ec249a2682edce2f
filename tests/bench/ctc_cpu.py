"""What a CPU makes of CTC in float32, bfloat16 and int8: bytes, × real time, errors; and what int8 costs in words.

``python -m tests.bench.ctc_cpu [--size large] [--rounds 3] [--out FILE]``: a wav2vec2 of random weights and the true
size, in one process, the variants in turn; then ``earwitness quantize`` and loading its folder, each in a process of
its own. With random weights there are no words, so the words are Whisper tiny.en's: CTranslate2's int8 against its
float32 on the bundled sentences, clean and in noise.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_whisper import WhisperModel

from compose.tiny_en import ct2_tiny_en
from consumer.core.hearing import Samples
from consumer.engines import ctc_int8
from consumer.engines.ctc import load_float32
from consumer.engines.ctc_network import CtcNetwork, Recogniser
from tests.bench.report import machine, write_json
from tests.support.recordings import recordings, word_error_rate
from tests.support.tiny_ctc import babble, build

CLIPS = {4: 4, 10: 2}
"""How many clips of how many seconds."""
NOISE_DECIBELS = (None, 30, 30, 30, 20, 20, 20, 10, 10, 10)
"""Speech above noise; each time it is another noise."""


def main() -> None:
    """Measure, print, and write JSON if asked."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--size", choices=("tiny", "large"), default="large")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--out", type=Path)
    arguments = asked.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = build(Path(made) / "float32", "group", size=arguments.size)
        figures = {
            "threads": arguments.threads,
            "variants": variants(folder, arguments.rounds),
            "peak_rss_bytes": memory(folder, Path(made) / "int8"),
            "whisper_word_error_rate": words(),
        }
    show(figures)
    if arguments.out:
        write_json(arguments.out, "tests.bench.ctc_cpu", None, figures)


def variants(folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Each variant's bytes, × real time by clip length (the median of rounds in turn), and errors against float32."""
    networks = {name: variant(folder, name) for name in ("float32", "bfloat16", "int8", "int8+bfloat16")}
    groups = {"float32": 1, "bfloat16": 8, "int8": 1, "int8+bfloat16": 1}
    clips = {seconds: [babble(seconds, number) for number in range(count)] for seconds, count in CLIPS.items()}
    speeds: dict[str, dict[int, list[float]]] = {name: {seconds: [] for seconds in CLIPS} for name in networks}
    for network in networks.values():
        network.recognise(clips[4][:1])
    judged = [clips[4][0], clips[10][0]]
    right = scores_of(networks["float32"], judged)
    for _ in range(rounds):
        for name, network in networks.items():
            for seconds, sounds in clips.items():
                speeds[name][seconds].append(times_real_time(network, sounds, groups[name]))
    return {
        name: {
            "weight_bytes": ctc_int8.weight_bytes(network.recogniser.network),
            "batch": groups[name],
            "times_real_time": {seconds: statistics.median(took) for seconds, took in speeds[name].items()},
            **errors(right, scores_of(network, judged)),
        }
        for name, network in networks.items()
    }


def variant(folder: Path, name: str) -> CtcNetwork:
    """The network in one arithmetic; ``int8+bfloat16`` has its convolutions in bfloat16 whether that helps or not."""
    network = load_float32(str(folder), {"local_files_only": True})
    if name.startswith("int8"):
        ctc_int8.quantise(network)
    if name == "int8+bfloat16":
        ctc_int8.convolve_in_bfloat16(network)
    recogniser = Recogniser(network, normalise=True)
    return CtcNetwork(recogniser.bfloat16() if name == "bfloat16" else recogniser, "cpu")


def times_real_time(network: CtcNetwork, sounds: list[Samples], group: int) -> float:
    """Seconds of audio heard in a second."""
    began = time.perf_counter()
    for first in range(0, len(sounds), group):
        network.recognise(sounds[first : first + group])
    return sum(len(sound) for sound in sounds) / 16_000 / (time.perf_counter() - began)


def errors(right: torch.Tensor, scores: torch.Tensor) -> dict[str, float]:
    """Relative error of the logits, root mean square; tokens equal, all and where float32's two best are further
    apart than twice that error.
    """
    error = float((scores - right).square().mean().sqrt())
    equal = scores.argmax(-1) == right.argmax(-1)
    best = right.topk(2, dim=-1).values
    sure = best[:, 0] - best[:, 1] > 2 * error
    return {
        "relative_logits_error": error / float(right.square().mean().sqrt()),
        "tokens_equal": float(equal.float().mean()),
        "tokens_equal_where_sure": float(equal[sure].float().mean()),
        "share_sure": float(sure.float().mean()),
    }


def scores_of(network: CtcNetwork, sounds: list[Samples]) -> torch.Tensor:
    """Logits of chunks, each alone, one after another, but for what is common to a frame; shape (frames, symbols)."""
    scores = torch.cat([network.log_probabilities([sound])[0] for sound in sounds])
    return scores - scores.mean(-1, keepdim=True)


def memory(folder: Path, out: Path) -> dict[str, int]:
    """Peak resident bytes of a process that quantises, and of ones that load."""
    load = "ctc.load({!r}, revision=None, device='cpu', compute_type={!r}, threads=1)"
    return {
        "imports_alone": peak("ctc.__name__"),
        "quantize": peak(f"write_int8({str(folder)!r}, Path({str(out)!r}), revision=None)"),
        "load_quantised_folder": peak(load.format(str(out), "auto")),
        "load_and_quantise": peak(load.format(str(folder), "int8")),
        "load_float32": peak(load.format(str(folder), "float32")),
        "quantised_file": (out / ctc_int8.WEIGHTS_FILE).stat().st_size,
    }


def peak(statement: str) -> int:
    script = (
        "from pathlib import Path\nfrom consumer.engines import ctc\n"
        f"from consumer.engines.ctc_quantize import write_int8\n{statement}\n"
        # not ru_maxrss: a child is born with its parent's
        "print(next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[-2]) * 1024


def words() -> dict[str, float]:
    """Whisper tiny.en in CTranslate2, greedy: word error rates over all sentences in all noises."""
    clips: list[Samples] = []
    texts: list[str] = []
    for spoken in recordings():
        for decibels in NOISE_DECIBELS:
            clips.append(in_noise(spoken.samples, decibels, len(clips)))
            texts.append(spoken.text)
    rates = {}
    for kind in ("float32", "int8"):
        model = WhisperModel(str(ct2_tiny_en()), device="cpu", compute_type=kind)
        heard = [
            " ".join(part.text for part in model.transcribe(clip, language="en", beam_size=1, temperature=0.0)[0])
            for clip in clips
        ]
        rates[kind] = word_error_rate(texts, heard)
    return {**rates, "clips": len(clips)}


def in_noise(samples: Samples, decibels: int | None, seed: int) -> Samples:
    if decibels is None:
        return samples
    loudness = float(np.sqrt(np.square(samples).mean())) * 10 ** (-decibels / 20)
    noise = np.random.default_rng(seed).normal(0.0, loudness, samples.size)
    return (samples + noise).astype(np.float32)


def show(figures: dict[str, Any]) -> None:
    print(f"{machine()['cpu']}, {figures['threads']} threads")
    print(f"{'variant':15}{'MB':>7}{'batch':>7}{'4 s ×':>8}{'10 s ×':>8}{'error':>9}{'equal':>8}{'sure':>8}")
    for name, one in figures["variants"].items():
        speeds = "".join(f"{speed:8.1f}" for speed in one["times_real_time"].values())
        print(
            f"{name:15}{one['weight_bytes'] / 1e6:7.0f}{one['batch']:7}{speeds}{one['relative_logits_error']:9.4f}"
            f"{one['tokens_equal']:8.2%}{one['tokens_equal_where_sure']:8.2%}"
        )
    for name, count in figures["peak_rss_bytes"].items():
        print(f"{name:25}{count / 1e6:8.0f} MB")
    rates = figures["whisper_word_error_rate"]
    print(f"Whisper tiny.en, {rates['clips']} clips: WER float32 {rates['float32']:.2%}, int8 {rates['int8']:.2%}")


if __name__ == "__main__":
    main()
