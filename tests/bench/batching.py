"""What the batcher makes of traffic: padding, fill, waits and latencies, with a clock that is only a number.

``python -m tests.bench.batching [--kinds ctc,ctc-graphs,whisper] [--seconds-per-audio-second 0.000125]
[--seconds-per-batch 0.002] [--devices 1] [--ahead 2] [--chunks 20000] [--out FILE.json]``: the service's own batcher
before devices that take ``seconds-per-batch`` plus ``seconds-per-audio-second`` for each padded second of audio. A
load of 1 is audio that keeps the devices busy all the time if nothing is padded and a batch costs nothing by itself.
"""

import argparse
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from consumer.core.batcher import Batch, Batcher, BatchLimits
from consumer.settings import Settings
from tests.bench.mix import LONGEST_SECONDS, lengths, pieces
from tests.bench.report import write_json

WINDOW_SECONDS = 30.0
FULLEST_WINDOW_SECONDS = 29.0
"""Longest piece that the service puts into one window of Whisper's."""
BURST_CHUNKS = 200
SEED = 1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A chunk that comes at a moment, in seconds."""

    at: float
    audio_seconds: float


@dataclass(frozen=True, slots=True)
class Graphs:
    """Fixed shapes that a device has recorded: a batch runs in the smallest that holds it, padding and empty rows too.

    A batch longer than all of them runs as it is; one with more rows runs in several.
    """

    lengths_seconds: tuple[float, ...]
    rows: tuple[int, ...]

    def computed_seconds(self, rows: int, longest_seconds: float) -> float:
        """Audio that the device computes for a batch."""
        length = next((edge for edge in sorted(self.lengths_seconds) if edge >= longest_seconds), None)
        if length is None:
            return rows * longest_seconds
        most = max(self.rows)
        whole, rest = divmod(rows, most)
        return length * (whole * most + (min(size for size in self.rows if size >= rest) if rest else 0))


@dataclass(frozen=True, slots=True)
class Device:
    """What a batch costs, and how much of it may be under way."""

    seconds_per_audio_second: float
    seconds_per_batch: float
    devices: int = 1
    ahead: int = 2
    """Batches given to one device at most: the one that runs, and those that wait behind it."""
    graphs: Graphs | None = None

    def computed_seconds(self, rows: int, longest_seconds: float) -> float:
        return self.graphs.computed_seconds(rows, longest_seconds) if self.graphs else rows * longest_seconds


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one run; seconds, and shares of 1."""

    kind: str
    pattern: str
    load: float
    padding: float
    """Seconds computed for each second of audio; for Whisper of each window, so that only empty places count."""
    window_fill: float | None
    """Whisper: the share of a window that is audio."""
    fill: float
    """Padded audio of a batch against what a batch may hold."""
    chunks_a_batch: float
    busy: float
    """Share of the time that the devices computed."""
    wait_p50: float
    wait_p99: float
    latency_p50: float
    latency_p99: float
    idle_wait_max: float
    """Longest time that a chunk waited while a device had nothing to do."""


def steady(sizes: Sequence[float], audio_rate: float, random: np.random.Generator) -> Iterator[Arrival]:
    """Recordings that know nothing of each other, ``audio_rate`` seconds of audio a second on average."""
    gaps = random.exponential(float(np.mean(sizes)) / audio_rate, len(sizes))
    yield from map(Arrival, np.cumsum(gaps).tolist(), sizes)


def bursts(sizes: Sequence[float], audio_rate: float, random: np.random.Generator) -> Iterator[Arrival]:
    """The same, but BURST_CHUNKS come at once and then nothing for a while."""
    gaps = random.exponential(BURST_CHUNKS * float(np.mean(sizes)) / audio_rate, -(-len(sizes) // BURST_CHUNKS))
    moments = np.repeat(np.cumsum(gaps), BURST_CHUNKS)[: len(sizes)]
    yield from map(Arrival, moments.tolist(), sizes)


PATTERNS: dict[str, Callable[[Sequence[float], float, np.random.Generator], Iterator[Arrival]]] = {
    "steady": steady,
    "bursts": bursts,
}
LOADS = (0.05, 0.3, 0.7, 0.9, 1.5)


class Simulation:
    """The service's batcher before devices that compute by formula.

    A batch is taken as soon as it is due and a device has room for it, as the dispatcher does.
    """

    def __init__(self, limits: BatchLimits, device: Device) -> None:
        self._limits = limits
        self._device = device
        self._batcher: Batcher[float] = Batcher(limits)
        self._outside: deque[Arrival] = deque()
        """Chunks for which the batcher has no room."""
        self._free_at = [0.0] * device.devices
        self._given: list[list[float]] = [[] for _ in range(device.devices)]
        """For each device the ends of the batches given to it and not yet done, as a heap."""
        self.waits: list[float] = []
        self.latencies: list[float] = []
        self.idle_waits: list[float] = []
        self.audio_seconds = self.cost_seconds = self.computed_seconds = self.busy_seconds = 0.0
        self.fills: list[float] = []
        self.sizes: list[int] = []
        self.ended = 0.0

    def run(self, arrivals: Sequence[Arrival]) -> None:
        """Let all of them come and go."""
        coming = deque(arrivals)
        now = 0.0
        while coming or self._outside or len(self._batcher):
            while coming and coming[0].at <= now:
                self._outside.append(coming.popleft())
            self._admit(now)
            while (slot := self._open_slot(now)) is not None and (batch := self._batcher.take(now)) is not None:
                self._begin(slot, batch, now)
                self._admit(now)
            if not coming and not self._outside and len(self._batcher):
                self._batcher.drain()
            now = self._next_moment(coming, now)

    def _admit(self, now: float) -> None:
        while self._outside and not self._batcher.full:
            arrival = self._outside.popleft()
            self._batcher.add(arrival.at, arrival.audio_seconds, critical=False, now=now)

    def _open_slot(self, now: float) -> int | None:
        """The device that has the least before it, if it may be given another batch."""
        for ends in self._given:
            while ends and ends[0] <= now:
                heapq.heappop(ends)
        slot = min(range(len(self._given)), key=lambda one: (len(self._given[one]), self._free_at[one]))
        return slot if len(self._given[slot]) < self._device.ahead else None

    def _begin(self, slot: int, batch: Batch[float], now: float) -> None:
        longest = max(member.cost_seconds for member in batch.members)
        computed = self._device.computed_seconds(len(batch.members), longest)
        seconds = self._device.seconds_per_batch + computed * self._device.seconds_per_audio_second
        begins = max(now, self._free_at[slot])
        ends = begins + seconds
        for came in batch.items:
            self.waits.append(begins - came)
            self.latencies.append(ends - came)
            self.idle_waits.append(max(0.0, begins - max(came, self._free_at[slot])))
        self._free_at[slot] = self.ended = ends
        heapq.heappush(self._given[slot], ends)
        self.audio_seconds += batch.audio_seconds
        self.cost_seconds += sum(member.cost_seconds for member in batch.members)
        self.computed_seconds += computed
        self.busy_seconds += seconds
        self.fills.append(batch.padded_seconds / self._limits.padded_seconds)
        self.sizes.append(len(batch.members))

    def _next_moment(self, coming: deque[Arrival], now: float) -> float:
        moments = [coming[0].at] if coming else []
        if self._open_slot(now) is None:
            moments.append(min(ends[0] for ends in self._given))
        elif (due := self._batcher.next_due(now)) is not None:
            moments.append(due)
        return max(now, min(moments, default=now))

    def row(self, kind: str, pattern: str, load: float) -> Row:
        """The figures of the run."""
        wait, latency = np.percentile(self.waits, (50, 99)), np.percentile(self.latencies, (50, 99))
        window = self._limits.window_seconds
        return Row(
            kind=kind,
            pattern=pattern,
            load=load,
            padding=self.computed_seconds / self.cost_seconds,
            window_fill=self.audio_seconds / self.cost_seconds if window else None,
            fill=float(np.mean(self.fills)),
            chunks_a_batch=float(np.mean(self.sizes)),
            busy=self.busy_seconds / self.ended / self._device.devices,
            wait_p50=float(wait[0]),
            wait_p99=float(wait[1]),
            latency_p50=float(latency[0]),
            latency_p99=float(latency[1]),
            idle_wait_max=max(self.idle_waits),
        )


def measure(kind: str, pattern: str, load: float, limits: BatchLimits, device: Device, chunks: int) -> Row:
    """One pattern at one load."""
    random = np.random.default_rng(SEED)
    longest = FULLEST_WINDOW_SECONDS if limits.window_seconds else LONGEST_SECONDS
    sizes = [piece for seconds in lengths(chunks, random) for piece in pieces(seconds, longest)]
    cost = limits.window_seconds or float(np.mean(sizes))
    audio_rate = load * device.devices * float(np.mean(sizes)) / (cost * device.seconds_per_audio_second)
    simulation = Simulation(limits, device)
    simulation.run(list(PATTERNS[pattern](sizes, audio_rate, random)))
    return simulation.row(kind, pattern, load)


def limits_of(kind: str, settings: Settings) -> BatchLimits:
    """What the service's settings make of a kind of model."""
    return BatchLimits(
        padded_seconds=settings.batch_audio_seconds,
        max_chunks=settings.batch_max_chunks,
        max_wait_seconds=settings.batch_wait_ms / 1000,
        queue_seconds=settings.queue_audio_seconds,
        window_seconds=WINDOW_SECONDS if kind == "whisper" else None,
    )


def table(rows: Sequence[Row]) -> str:
    """The figures for people; waits and latencies in milliseconds."""
    head = (
        f"{'kind':11} {'pattern':7} {'load':>5} {'padding':>7} {'window':>6} {'fill':>5} {'chunks':>6} {'busy':>5} "
        f"{'wait p50':>9} {'p99':>8} {'latency p50':>12} {'p99':>8} {'idle wait':>9}"
    )
    lines = [
        f"{row.kind:11} {row.pattern:7} {row.load:5.2f} {row.padding:7.3f} "
        f"{'' if row.window_fill is None else format(row.window_fill, '.2f'):>6} {row.fill:5.2f} "
        f"{row.chunks_a_batch:6.1f} {row.busy:5.2f} {row.wait_p50 * 1000:9.1f} {row.wait_p99 * 1000:8.1f} "
        f"{row.latency_p50 * 1000:12.1f} {row.latency_p99 * 1000:8.1f} {row.idle_wait_max * 1000:9.1f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="ctc,ctc-graphs,whisper")
    parser.add_argument("--loads", type=_numbers, default=LOADS)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--seconds-per-audio-second", type=float, default=1 / 8000)
    parser.add_argument("--seconds-per-batch", type=float, default=0.002)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--ahead", type=int, default=2)
    parser.add_argument("--batch-audio-seconds", type=float, default=settings.batch_audio_seconds)
    parser.add_argument("--batch-max-chunks", type=int, default=settings.batch_max_chunks)
    parser.add_argument("--bucket-seconds", type=float, default=1.0)
    parser.add_argument("--graph-lengths", type=_numbers, default=(2, 3, 4, 5, 6, 8, 10, 12, 15, 20))
    parser.add_argument("--graph-rows", type=_numbers, default=(1, 2, 4, 8, 16))
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    device = Device(asked.seconds_per_audio_second, asked.seconds_per_batch, asked.devices, asked.ahead)
    graphs = Graphs(asked.graph_lengths, tuple(map(int, asked.graph_rows)))
    rows = []
    for kind in asked.kinds.split(","):
        limits = replace(
            limits_of(kind, settings),
            padded_seconds=asked.batch_audio_seconds,
            max_chunks=asked.batch_max_chunks,
            bucket_seconds=asked.bucket_seconds,
        )
        own = replace(device, graphs=graphs if kind == "ctc-graphs" else None)
        rows += [measure(kind, name, load, limits, own, asked.chunks) for name in PATTERNS for load in asked.loads]
    print(table(rows))
    if asked.out is not None:
        write_json(asked.out, "tests.bench.batching", arguments, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
