"""The service, its engine by itself, and how others do it: same audio, same weights, same machine, one run.

``python -m tests.bench.engines [--engines ctranslate2,ctc] [--clips 300] [--ctc-clips 40] [--ctc-size large]
[--audio FOLDER] [--mix short|usual] [--device cpu|cuda:0] [--runs 3] [--usd-per-hour NAME=USD] [--out FILE.json]``:

(a) the service through a real Kafka, (b) its engine alone on decoded clips, (c) one file after another, (d) the ASR
pipeline of transformers, (e) faster-whisper. Each is a fresh process on the measured cores; broker, publisher and
reader have two cores of their own from four cores on, and share all below that. (a) and (b) take turns; latency is
that of clips that come one by one at half of the service's own pace. ``--kafka HOST:PORT`` takes a broker elsewhere.
Whisper has tiny.en's true weights; wav2vec2 has random ones, so no word errors. ``--audio``: recordings with their
words beside them (``name.txt``). A table, FILE.json and FILE.<engine>.svg.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from compose.local_kafka import LocalKafka
from consumer.settings import Settings
from tests.bench.clips import MIXES, Clip, make_clips, read_clips
from tests.bench.contestants import Found, Spec
from tests.bench.figures import Figures, figures, same_texts, service_against_engine, table
from tests.bench.plot import draw
from tests.bench.processes import PeakMemory, on_cores, split_cores
from tests.bench.report import machine, write_json
from tests.bench.service_run import run_service
from tests.bench.weights import SIZES, model_for

SERVICE, ALONE = "(a) the service through Kafka", "(b) its engine alone"
PACE = 0.5
"""Clips that come one by one come at this share of the service's speed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One engine's part of a run."""

    spec: Spec
    clips: list[Clip]
    measured: set[int]
    bootstrap_servers: str
    folder: Path
    runs: int
    paced: int
    """Clips that come one by one after the last run."""
    peers: bool

    def moments(self, realtime: float) -> list[float]:
        """When the clips come that come one by one: at random, always the same."""
        gaps = [clip.seconds / (PACE * realtime) for clip in self.clips[: self.paced]]
        random = np.random.default_rng(1).exponential(1.0, len(gaps))
        return [float(moment) for moment in np.cumsum(random * np.mean(gaps))] if gaps else []


def contestants(spec: Spec) -> dict[str, Spec]:
    """Who runs beside the service and its engine, by name; the weights are the same, and so is the beam of one."""
    gpu = spec.device != "cpu"
    types: tuple[str, ...]
    if spec.engine == "ctc":
        types = ("float32", "bfloat16") if gpu else ("float32", "int8")
        plain = spec
    else:
        types = ("float32", "bfloat16") if gpu else ("float32",)
        plain = replace(spec, engine="whisper", model=str(model_for("whisper", "", Path())))
    found = {f"(c) one by one, {one}": replace(plain, kind="one by one", compute_type=one) for one in types}
    for one in types if gpu else types[:1]:
        found[f"(d) the ASR pipeline, {one}"] = replace(plain, kind="pipeline", compute_type=one)
    if spec.engine == "ctranslate2":
        found[f"(c) faster-whisper one by one, {spec.compute_type}"] = replace(spec, kind="faster-whisper")
        found[f"(e) faster-whisper batched, {spec.compute_type}"] = replace(spec, kind="faster-whisper batched")
    return dict(sorted(found.items()))


def run_contestant(plan: Plan, spec: Spec) -> Found:
    """A fresh process on the measured cores. Raises RuntimeError with its last words if it fails."""
    given, out = plan.folder / "spec.json", plan.folder / "found.json"
    given.write_bytes(orjson.dumps(asdict(spec)))
    command = [sys.executable, "-m", "tests.bench.contestants", str(given), str(out)]
    # threads that wait as the service's do: it is the quicker way for all of them
    environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with on_cores(plan.measured):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    with process, PeakMemory(process.pid) as memory:
        _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{spec.kind} failed:\n{said[-3000:]}")
    return replace(Found(**orjson.loads(out.read_bytes())), peak_rss_bytes=memory.peak_bytes)


def service_settings(plan: Plan) -> Settings:
    """The service as ``spec`` has its engine, on topics that nobody else uses."""
    name, spec = f"bench-{secrets.token_hex(4)}", plan.spec
    chosen: dict[str, Any] = {
        **spec.settings,
        "kafka_bootstrap_servers": plan.bootstrap_servers,
        "topic_prefix": name,
        "group_id": name,
        "partitions": 4,
        "fetch_allow": [f"file://{plan.clips[0].path.absolute().parent}/"],
        "state_dir": plan.folder / name,
        "engine": spec.engine,
        "model": spec.model,
        "devices": [spec.device],
        "compute_type": spec.compute_type,
        "engine_threads": spec.threads,
        "decode_workers": max(2, len(plan.measured)),
        "language": spec.language,
    }
    return Settings.model_validate(chosen)


def in_turns(plan: Plan) -> tuple[list[Found], list[Found]]:
    """The service and its engine alone, one after the other, as often as asked; single clips after the last."""
    whole: list[Found] = []
    alone: list[Found] = []
    for number in range(plan.runs):
        last = number + 1 == plan.runs
        moments = plan.moments if last else (lambda _: [])
        whole.append(asyncio.run(run_service(service_settings(plan), plan.clips, plan.measured, moments)))
        paced_at = plan.moments(speed(whole[-1])) if last else []
        alone.append(run_contestant(plan, replace(plan.spec, paced_at=paced_at)))
        print(f"run {number + 1}: service {said_of(whole[-1])}; engine alone {said_of(alone[-1])}", flush=True)
    return whole, alone


def speed(found: Found) -> float:
    return found.audio_seconds / found.seconds


def said_of(found: Found) -> str:
    return f"{speed(found):.1f} ×, {found.cpu_seconds / found.audio_seconds * 3600:.0f} CPU s an audio hour"


def compare(plan: Plan, usd_per_hour: dict[str, float]) -> tuple[list[Figures], dict[str, Any]]:
    """Everybody's line, and the ratios that are promised."""
    whole, alone = in_turns(plan)
    runs = {SERVICE: whole, ALONE: alone}
    paced_at = plan.moments(speed(whole[-1]))
    for name, spec in contestants(plan.spec).items() if plan.peers else ():
        runs[name] = [run_contestant(plan, replace(spec, paced_at=paced_at))]
        print(f"{name}: {said_of(runs[name][0])}", flush=True)
    lines = [figures(name, found, plan.clips, usd_per_hour) for name, found in runs.items()]
    ratios = {f"(a) against {line.name}": lines[0].realtime / line.realtime for line in lines[2:]}
    return lines, {
        "audio_seconds": whole[0].audio_seconds,
        "clips": len(plan.clips),
        "figures": [asdict(line) for line in lines],
        "service_against_engine": service_against_engine(whole, alone),
        "ratios": ratios,
        "same_texts_as_engine_alone": same_texts(whole[-1].texts, alone[-1].texts),
    }


def report(title: str, lines: Sequence[Figures], found: dict[str, Any]) -> str:
    """What is printed of one engine."""
    said = [title, table(lines), f"(a) against (b), median of pairs: {found['service_against_engine']:.3f}"]
    said += [f"{name}: {ratio:.2f}" for name, ratio in found["ratios"].items()]
    said.append(f"texts of (a) equal to (b): {found['same_texts_as_engine_alone']:.1%}")
    return "\n".join(said)


def measure(
    asked: argparse.Namespace, folder: Path, bootstrap_servers: str, save: Callable[[dict[str, Any]], None]
) -> None:
    """Every engine that was asked for; what is found is saved after each."""
    measured, others = split_cores(asked.cores)
    shared = measured == others
    print(
        f"measured cores {sorted(measured)}; broker, publisher and reader {'share them' if shared else sorted(others)}"
    )
    found: dict[str, Any] = {"machine": machine(), "measured_cores": len(measured), "cores_shared": shared}
    given = read_clips(asked.audio) if asked.audio else make_clips(folder / "clips", asked.clips, asked.mix)
    for engine in asked.engines.split(","):
        count = asked.ctc_clips if engine == "ctc" else asked.clips
        clips = copied(given[:count], folder / f"clips-{engine}")
        if engine == "ctc":
            clips = [replace(clip, text=None) for clip in clips]  # random weights make no words to count
        model = model_for(engine, asked.ctc_size, asked.models)
        compute_type = asked.ctc_compute_type if engine == "ctc" else asked.compute_type
        spec = Spec(
            "alone", engine, str(model.absolute()), str(clips[0].path.parent), asked.device, len(measured),
            compute_type, asked.language, dict(asked.set),
        )  # fmt: skip
        plan = Plan(
            spec, clips, measured, bootstrap_servers, folder, asked.runs, min(asked.paced, len(clips)), asked.peers
        )
        lines, found[engine] = compare(plan, dict(asked.usd_per_hour))
        title = f"{engine} {compute_type} on {asked.device}, {len(measured)} cores, {len(clips)} clips"
        print(report(title, lines, found[engine]), flush=True)
        if asked.out is not None:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            draw(asked.out.with_suffix(f".{engine}.svg"), title, lines)
        save(found)


def copied(clips: Sequence[Clip], folder: Path) -> list[Clip]:
    """The chosen clips in a folder of their own, which every contestant reads whole (the service follows no links)."""
    folder.mkdir()
    for clip in clips:
        for path in (clip.path, clip.path.with_suffix(".txt")):
            if path.is_file():
                shutil.copy(path, folder)
    return read_clips(folder)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _price(text: str) -> tuple[str, float]:
    name, value = _pair(text)
    return name, float(value)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="ctranslate2,ctc", help="ctranslate2, whisper, ctc")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--ctc-clips", type=int, default=40)
    parser.add_argument("--ctc-size", choices=SIZES, default="large")
    parser.add_argument("--mix", choices=sorted(MIXES), default="short")
    parser.add_argument("--audio", type=Path, help="a folder of recordings instead of made ones")
    parser.add_argument("--language", default="en")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute-type", default="int8", help="Whisper's, for the service and its equals")
    parser.add_argument("--ctc-compute-type", default="float32")
    parser.add_argument("--cores", type=lambda text: set(map(int, text.split(","))), default=os.sched_getaffinity(0))
    parser.add_argument("--runs", type=int, default=3, help="of the service and its engine alone, in turns")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="(a) and (b) alone")
    parser.add_argument("--paced", type=int, default=60, help="clips that come one by one")
    parser.add_argument("--set", type=_pair, action="append", default=[], help="NAME=VALUE: a setting of the service")
    parser.add_argument("--usd-per-hour", type=_price, action="append", default=None, help="NAME=USD of the machine")
    parser.add_argument("--kafka", help="a broker elsewhere instead of one on this machine")
    parser.add_argument(
        "--models", type=Path, default=Path(".earwitness/bench-models"), help="made models are kept here"
    )
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON, and pictures beside it")
    asked = parser.parse_args(arguments)
    asked.usd_per_hour = asked.usd_per_hour or [("at $0.10 an hour", 0.10)]
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parsed(arguments)

    def save(found: dict[str, Any]) -> None:
        if asked.out is not None:
            write_json(asked.out, "tests.bench.engines", arguments, found)

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(on_cores(split_cores(asked.cores)[1]))
        servers = asked.kafka or stack.enter_context(LocalKafka(folder / "kafka")).bootstrap_servers
        measure(asked, folder, servers, save)


if __name__ == "__main__":
    main()
