"""The engine child killed under load: how long until words come again, and whether all of them come.

``python -m tests.bench.kill_engine [--engine ctranslate2] [--kills 3] [--clips 200] [--out FILE.json]``: a real service
with all clips before it, whose engine child is killed with SIGKILL each time another share of them is heard. Asserts
that the longest silence around a kill is at most the child's load time and BACK_SECONDS, that every event has exactly
one transcript, and that none is a dead letter.
"""

import argparse
import asyncio
import os
import secrets
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from compose.local_kafka import LocalKafka
from consumer.engines.local import LocalEngine
from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.bench.clips import make_clips
from tests.bench.processes import tree
from tests.bench.report import write_json
from tests.bench.service_run import Publisher, Reader, events_of
from tests.bench.weights import SIZES, model_for
from tests.support.service import serving

BACK_SECONDS = 2.0
"""What an engine child may take beyond its load time until words come again."""


def engine_children(pid: int) -> list[int]:
    """The engine children of a service's process."""
    return [one for one in tree(pid) if "consumer.workers.engine_child" in _command(one)]


def silences(moments: Sequence[float], kills: Sequence[float]) -> list[float]:
    """For each kill the longest gap between neighbouring transcripts from it until the next kill, or the end."""
    found = []
    for kill, following in pairwise([*kills, float("inf")]):
        before = max((moment for moment in moments if moment <= kill), default=kill)
        after = sorted(moment for moment in moments if kill < moment)
        within = [moment for moment in after if moment <= following] or after[:1]
        found.append(max((later - earlier for earlier, later in pairwise([before, *within])), default=0.0))
    return found


async def load_seconds(settings: Settings) -> float:
    """How long the engine takes from the start of its child until it can hear; the second time, from warm caches."""
    took = 0.0
    for _ in range(2):
        engine = LocalEngine(settings)
        began = time.monotonic()
        await engine.start()
        took = time.monotonic() - began
        await engine.stop()
    return took


def kill_in_turns(reader: Reader, pid: int, clips: int, kills: int) -> list[float]:
    """Kill the engine child each time another share of the clips has been heard; when that was. Blocks."""
    killed_at = []
    for number in range(1, kills + 1):
        reader.until_count(number * clips // (kills + 1))
        (child,) = engine_children(pid)
        killed_at.append(time.monotonic())
        os.kill(child, signal.SIGKILL)
    return killed_at


async def run(settings: Settings, folder: Path, clips: int, kills: int) -> tuple[float, list[float]]:
    """Load time, and the silence after each kill.

    Raises AssertionError where a promise is broken, RuntimeError for a dead letter or a double.
    """
    load = await load_seconds(settings)
    await create(settings)
    events = events_of(make_clips(folder / "clips", clips), "killed")
    async with serving(settings) as service:
        await service.until_log("lane_open", settings.partitions)
        with Reader(settings) as reader:
            publisher = Publisher(settings)
            for event in events.values():
                publisher.publish(event)
            killed_at = await asyncio.to_thread(kill_in_turns, reader, service.process.pid, clips, kills)
            seen = await asyncio.to_thread(reader.until, set(events))
            publisher.flush()
        assert await service.stop() == 0
    quiet = silences([one.at for one in seen.values()], killed_at)
    assert len(seen) == clips
    assert max(quiet) <= load + BACK_SECONDS, f"silent for {max(quiet):.1f} s; the engine loads in {load:.1f} s"
    return load, quiet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("ctranslate2", "whisper", "ctc"), default="ctranslate2")
    parser.add_argument("--ctc-size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kafka", help="a broker elsewhere instead of one on this machine")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, group = Path(name), f"kill-{secrets.token_hex(4)}"
        servers = asked.kafka or stack.enter_context(LocalKafka(folder / "kafka")).bootstrap_servers
        settings = Settings(
            kafka_bootstrap_servers=servers,
            topic_prefix=group,
            group_id=group,
            partitions=4,
            fetch_allow=[f"file://{folder}/"],
            state_dir=folder / "state",
            engine=asked.engine,
            model=str(model_for(asked.engine, asked.ctc_size, folder).absolute()),
            devices=[asked.device],
        )
        load, silent = asyncio.run(run(settings, folder, asked.clips, asked.kills))
    print(
        f"{asked.kills} kills, {asked.clips} clips, all heard once; the engine loads in {load:.1f} s, "
        f"silent for {statistics.median(silent):.1f} s (median), {max(silent):.1f} s (longest)"
    )
    if asked.out is not None:
        write_json(asked.out, "tests.bench.kill_engine", arguments, {"load_seconds": load, "silences_seconds": silent})


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    main()
