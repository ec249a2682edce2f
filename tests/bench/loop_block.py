"""For how long the service's event loop is kept from its work at most, under loads that are made to block it.

``python -m tests.bench.loop_block [SCENARIO ...] [--partitions 4] [--http]``: a real broker, and for each scenario a
fresh service on fresh topics, watched from within: a timer of the loop that comes too late is a block, and a thread
that looks at the loop's stack all the time tells what it was doing then. Printed are the longest block, the most that
was computed in one (what is left of a block on a machine with a core to spare), the garbage collector's longest
pause, and the stack. ``--http`` has the service count everything too, as the live page wants it.
"""

import argparse
import asyncio
import gc
import hashlib
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from compose.kafka_probe import free_ports
from compose.local_kafka import LocalKafka
from consumer import service
from consumer.cli.serve import run as run_service
from consumer.core.event import dedup_key
from consumer.engines.choose import profile_of
from consumer.kafka.topics import create
from consumer.settings import Settings
from consumer.telemetry.logs import set_up_logs
from schemas.codec import encode
from schemas.codes import Outcome, Route
from schemas.models import (
    Attempt,
    DedupEntry,
    EngineRef,
    LatencySeconds,
    Segment,
    TranscriptionMetric,
    Word,
    utc_now,
)
from schemas.topics import digest_partition
from tests.bench.report import machine
from tests.bench.throughput import make_recordings, wait_for
from tests.support.kafka import Written, write_records
from tests.support.service import serving

TICK_SECONDS = 0.005
LOOK_SECONDS = 0.002
STACKS = 4
"""Of the worst block, the commonest first."""
LOADED_SECONDS = 300.0


# inside the service


@dataclass(slots=True)
class Block:
    """The worst that was seen."""

    seconds: float = 0.0
    computing_seconds: float = 0.0
    stacks: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Watch:
    """Ticks in the loop, looks from a thread."""

    opening: Block = field(default_factory=Block)
    serving: Block = field(default_factory=Block)
    most_computing_seconds: float = 0.0
    """In one block while serving."""
    gc_seconds: float = 0.0
    """The longest pause of the garbage collector, in any thread."""

    async def run(self, work: Any) -> None:
        """Watch while the work goes on."""
        seen: deque[tuple[float, str]] = deque(maxlen=2000)
        done = threading.Event()
        looking = threading.Thread(target=_look, args=(threading.get_ident(), seen, done))
        looking.start()
        gc.callbacks.append(self._collecting())
        ticking = asyncio.create_task(self._tick(seen))
        try:
            await work
        finally:
            ticking.cancel()
            done.set()
            looking.join()

    async def _tick(self, seen: deque[tuple[float, str]]) -> None:
        due, computed = time.monotonic() + TICK_SECONDS, time.thread_time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, computed_now = time.monotonic(), time.thread_time()
            late, computing = now - due, computed_now - computed
            worst = self.serving if _Opened.at is not None and _Opened.at < due else self.opening
            if worst is self.serving:
                self.most_computing_seconds = max(self.most_computing_seconds, min(late, computing))
            if late > worst.seconds:
                worst.seconds, worst.computing_seconds = late, computing
                worst.stacks = Counter(stack for at, stack in list(seen) if due <= at <= now).most_common(STACKS)
            due, computed = now + TICK_SECONDS, computed_now

    def _collecting(self) -> Callable[[str, dict[str, int]], None]:
        began = 0.0

        def told(phase: str, _: dict[str, int]) -> None:
            nonlocal began
            if phase == "start":
                began = time.monotonic()
            else:
                self.gc_seconds = max(self.gc_seconds, time.monotonic() - began)

        return told


class _Opened:
    at: float | None = None
    """When the first lane was open."""


def _look(thread: int, seen: deque[tuple[float, str]], done: threading.Event) -> None:
    while not done.wait(LOOK_SECONDS):
        frame = sys._current_frames().get(thread)
        seen.append((time.monotonic(), _stack(frame)))


def _stack(frame: FrameType | None) -> str:
    """The innermost place, and the way to it through our own code."""
    if frame is None:
        return "?"
    places, innermost = list[str](), _place(frame)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("consumer.", "schemas.")):
            places.append(_place(frame))
        frame = frame.f_back
    ours = [place for place in reversed(places) if place != innermost]
    return " > ".join([*ours[-4:], innermost])


def _place(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{frame.f_lineno}"


def serve(out: Path) -> None:
    """``earwitness serve``, watched."""
    settings = Settings()
    set_up_logs(settings)
    watch = Watch()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if _Opened.at is None and record.msg.startswith("lane_open "):
                _Opened.at = time.monotonic()

    logging.getLogger().addHandler(Listener())
    run_service(watch.run(service.serve(settings)))
    out.write_text(json.dumps(asdict(watch)))


# the loads


@dataclass(frozen=True, slots=True)
class Load:
    """What a scenario publishes: what lies on other topics when the service starts, then events."""

    events: list[Written]
    before: Mapping[str, list[Written]] = field(default_factory=dict)
    """By topic."""


def event(number: int, path: Path | str, digest: str | None, **more: Any) -> Written:
    """A file's event, keyed as a good publisher does."""
    said = {"event_id": f"e{number}", "uri": f"file://{path}", **({"sha256": digest} if digest else {}), **more}
    return Written(json.dumps(said).encode(), (digest or f"e{number}").encode())


def entry(settings: Settings, digest: str, words: int) -> Written:
    """A remembered recording of so many words; 1,000 are 100 kB."""
    remembered = DedupEntry(
        text="wordy " * words,
        segments=[
            Segment(start_seconds=4.0 * n, end_seconds=4.0 * n + 3.9, text="wordy " * 10) for n in range(words // 10)
        ],
        words=[
            Word(start_seconds=0.4 * n, end_seconds=0.4 * n + 0.3, text="wordy", confidence=0.98) for n in range(words)
        ]
        or None,
        engine=EngineRef(name="simulated", model="simulated"),
        audio_seconds=0.4 * words,
        first_event_id="before",
        completed_at=utc_now(),
    )
    key = dedup_key("default", digest, profile_of(settings)(None))
    return Written(encode(remembered), key.encode(), partition=digest_partition(digest, settings.partitions))


def digest_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def cached(settings: Settings, folder: Path) -> Load:
    """Short recordings, nearly all remembered."""
    recordings = make_recordings(folder)
    return Load([event(n, *recordings[n % len(recordings)]) for n in range(15_000)])


def duplicates(settings: Settings, folder: Path) -> Load:
    """One recording, 5,000 times at once."""
    recording = make_recordings(folder)[0]
    return Load([event(n, *recording) for n in range(5_000)])


def crowd(settings: Settings, folder: Path) -> Load:
    """The same where a lane may have them all in flight: they wait for one recognition, and wake together."""
    return duplicates(settings, folder)


def restore(settings: Settings, folder: Path) -> Load:
    """200,000 remembered recordings and a few events."""
    return Load(
        [event(n, folder / "none.wav", digest_of(n)) for n in range(1_000)],
        {settings.topics.dedup: [entry(settings, digest_of(n), 0) for n in range(200_000)]},
    )


def transcripts(settings: Settings, folder: Path) -> Load:
    """Transcripts of 100 kB with times for all words, from memory."""
    return Load(
        [event(n, folder / "none.wav", digest_of(n % 40)) for n in range(2_000)],
        {settings.topics.dedup: [entry(settings, digest_of(n), 1_000) for n in range(40)]},
    )


def longest(settings: Settings, folder: Path) -> Load:
    """Transcripts as large as a topic takes, from memory."""
    return Load(
        [event(n, folder / "none.wav", digest_of(n % 8)) for n in range(160)],
        {settings.topics.dedup: [entry(settings, digest_of(n), 12_000) for n in range(8)]},
    )


def heard(settings: Settings, folder: Path) -> Load:
    """A thousand recordings of which none was heard before: fetched, decoded, recognised."""
    recordings = make_recordings(folder) + [made for n in range(9) for made in _more_recordings(folder, n)]
    return Load([event(n, *recording) for n, recording in enumerate(recordings)])


def _more_recordings(folder: Path, number: int) -> Iterable[tuple[Path, str]]:
    for path in sorted(folder.glob("?.wav")) + sorted(folder.glob("??.wav")):
        data = bytearray(path.read_bytes())
        data[-2] = (data[-2] + 1 + number) % 256
        other = folder / f"{number}-{path.name}"
        other.write_bytes(data)
        yield other, hashlib.sha256(data).hexdigest()


def broken(settings: Settings, folder: Path) -> Load:
    """Events that cannot be read, each of which becomes a dead letter."""
    return Load([Written(b"no event" * 50, b"%d" % n) for n in range(10_000)])


def watched(settings: Settings, folder: Path) -> Load:
    """200,000 metric events of the last hours, which the watcher of alerts reads first, and a few events."""
    now = utc_now()
    metrics = [
        TranscriptionMetric(
            event_id=f"m{n}",
            tenant="default",
            outcome=Outcome.TRANSCRIBED,
            route=Route.LOCAL,
            engine=EngineRef(name="simulated", model="simulated"),
            audio_seconds=3.0,
            latency_seconds=LatencySeconds(total=1.0, fetch=0.1, decode=0.1, queue=0.1, infer=0.5, commit=0.1),
            attempts=[Attempt(engine="x", model="m", outcome="ok", audio_seconds=3.0, cost_usd=0.001, seconds=0.5)],
            completed_at=now - timedelta(seconds=n / 20),
        )
        for n in range(200_000)
    ]
    written = [Written(encode(metric), f"m{n}".encode()) for n, metric in enumerate(metrics)]
    return Load(broken(settings, folder).events[:1_000], {settings.topics.metrics: written})


def moved(settings: Settings, folder: Path) -> Load:
    """Short recordings by keys that say nothing: fetched, hashed, moved, remembered."""
    recordings = make_recordings(folder)
    return Load([event(n, recordings[n % len(recordings)][0], None) for n in range(2_000)])


SCENARIOS: dict[str, Callable[[Settings, Path], Load]] = {
    made.__name__: made
    for made in (cached, duplicates, crowd, restore, transcripts, longest, heard, broken, watched, moved)
}


# the runs


async def run(kafka: LocalKafka, folder: Path, name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One scenario; what the service's watch says."""
    folder.mkdir()
    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        partitions=asked.partitions,
        engine="simulated",
        fetch_allow=[f"file://{folder}/"],
        state_dir=folder / "state",
        topic_prefix=f"loop-{name}",
        group_id=f"loop-{name}",
        http_port=free_ports(1)[0] if asked.http else 0,
        lane_in_flight=5_000 if name == "crowd" else 200,
        # the recognition lasts until everybody waits for it
        simulated_realtime_factor=1.0 if name in ("crowd", "duplicates") else 100.0,
    )
    await create(settings)
    load = SCENARIOS[name](settings, folder)
    for topic, records in load.before.items():
        write_records(kafka.bootstrap_servers, topic, records)
    write_records(kafka.bootstrap_servers, settings.topics.events, load.events)
    out = folder / "watch.json"
    program = (sys.executable, "-m", "tests.bench.loop_block", "--watch", out)
    async with serving(settings, program=program) as running:
        await running.until_log("lane_open", timeout_seconds=LOADED_SECONDS)
        began = time.monotonic()
        await asyncio.to_thread(wait_for, _all_committed(settings))
        seconds = time.monotonic() - began
        if await running.stop():
            raise RuntimeError("the service failed:\n" + "\n".join(running.lines[-20:]))
    return {**json.loads(out.read_text()), "events": len(load.events), "seconds": seconds}


def _all_committed(settings: Settings) -> Callable[[], bool]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": settings.group_id})
    rows = [TopicPartition(settings.topics.events, n) for n in range(settings.partitions)]

    def true() -> bool:
        ends = {row.partition: consumer.get_watermark_offsets(row)[1] for row in rows}
        return all(row.offset >= ends[row.partition] for row in consumer.committed(rows))

    return true


def say(name: str, told: dict[str, Any]) -> None:
    blocks = {phase: told[phase] for phase in ("opening", "serving")}
    longest = " ".join(
        f"{phase}: {1000 * block['seconds']:.0f} ms (computing {1000 * block['computing_seconds']:.0f});"
        for phase, block in blocks.items()
    )
    print(
        f"{name}: {longest} most computing while serving {1000 * told['most_computing_seconds']:.0f} ms, "
        f"garbage collector {1000 * told['gc_seconds']:.0f} ms; {told['events'] / told['seconds']:,.0f} events/s",
        flush=True,
    )
    for phase, block in blocks.items():
        for stack, times in block["stacks"]:
            print(f"    {phase} {times:4d} × {stack}")


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[], metavar="SCENARIO")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--http", action="store_true")
    asked = parser.parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory() as name, LocalKafka(Path(name) / "kafka") as kafka:
        for scenario in asked.scenarios or SCENARIOS:
            say(scenario, await run(kafka, Path(name) / scenario, scenario, asked))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        serve(Path(sys.argv[2]))
    else:
        asyncio.run(main())
