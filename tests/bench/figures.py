"""From what was measured to figures; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from consumer.core.quality import word_errors
from tests.bench.clips import Clip
from tests.bench.contestants import Found

MINUTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Figures:
    """One contestant's line; the median where it ran several times."""

    name: str
    realtime: float
    """Seconds of audio heard in a second."""
    p50_seconds: float | None
    """Latency of clips that come one by one at half the service's own pace."""
    p99_seconds: float | None
    cpu_seconds_per_audio_hour: float
    peak_rss_bytes: int
    wer: float | None
    usd_per_million_minutes: dict[str, float]
    note: str


def figures(name: str, runs: Sequence[Found], clips: Sequence[Clip], usd_per_hour: dict[str, float]) -> Figures:
    """``usd_per_hour`` gives the price of an hour of the machine, by the machine's name."""
    realtime = median(run.audio_seconds / run.seconds for run in runs)
    latencies = [seconds for run in runs for seconds in run.latencies_seconds]
    p50, p99 = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
    return Figures(
        name=name,
        realtime=realtime,
        p50_seconds=p50,
        p99_seconds=p99,
        cpu_seconds_per_audio_hour=median(run.cpu_seconds / run.audio_seconds for run in runs) * 3600,
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
        wer=word_error_rate(clips, runs[-1].texts),
        usd_per_million_minutes={
            machine: MINUTES / 60 / realtime * price for machine, price in usd_per_hour.items()
        },
        note=runs[-1].note,
    )  # fmt: skip


def word_error_rate(clips: Sequence[Clip], texts: dict[str, str], language: str = "en") -> float | None:
    """Errors over words, summed over the clips whose words are known; None where none are."""
    counted = [word_errors(clip.text, texts[clip.name], language) for clip in clips if clip.text is not None]
    known = [count for count in counted if count is not None]
    words = sum(count.words for count in known)
    return sum(count.errors for count in known) / words if words else None


def service_against_engine(service: Sequence[Found], alone: Sequence[Found]) -> float:
    """The median over pairs of runs, each of the service and the engine by itself, one after the other."""
    return median(engine.seconds / whole.seconds for whole, engine in zip(service, alone, strict=True))


def same_texts(left: dict[str, str], right: dict[str, str]) -> float:
    """The share of clips in which both heard the same."""
    return sum(left[name] == right[name] for name in left) / len(left)


def table(lines: Sequence[Figures]) -> str:
    """The figures for people."""
    machines = list(lines[0].usd_per_million_minutes)
    head = ["", "× real time", "p50 s", "p99 s", "CPU s / audio h", "peak RSS MB", "WER %"]
    head += [f"$ / million min, {machine}" for machine in machines]
    rows = [head, *(_cells(line, machines) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _cells(line: Figures, machines: Sequence[str]) -> list[str]:
    def shown(value: float | None, digits: int, scale: float = 1.0) -> str:
        return "–" if value is None else f"{value * scale:,.{digits}f}"

    return [
        f"{line.name} ({line.note})" if line.note else line.name,
        shown(line.realtime, 1),
        shown(line.p50_seconds, 2),
        shown(line.p99_seconds, 2),
        shown(line.cpu_seconds_per_audio_hour, 0),
        shown(line.peak_rss_bytes, 0, 1e-6),
        shown(line.wer, 1, 100),
        *(shown(line.usd_per_million_minutes[machine], 0) for machine in machines),
    ]
