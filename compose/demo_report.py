"""What the demo says at its end: every outcome, the sums, and whether the promises were kept."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compose.demo_outcomes import Published
from schemas.models import Transcript, TranscriptionMetric

WIDE_COLUMNS = 130
_LONGEST_TEXT = 220


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a run; money in US dollars."""

    transcribed: int
    recognitions: int
    dead_letters: int
    audio_seconds: float
    heard_seconds: float
    cost_usd: float
    errors: int
    words: int

    @classmethod
    def of(cls, published: Iterable[Published]) -> "Totals":
        every = list(published)
        transcripts = [transcript for one in every for transcript in one.transcripts]
        metrics = [metric for one in every for metric in one.metrics]
        measured = [metric.wer for metric in metrics if metric.wer is not None]
        return cls(
            transcribed=len(transcripts),
            recognitions=sum(not transcript.cached for transcript in transcripts),
            dead_letters=sum(len(one.dead_letters) for one in every),
            audio_seconds=sum(transcript.audio_seconds for transcript in transcripts),
            heard_seconds=sum(transcript.audio_seconds for transcript in transcripts if not transcript.cached),
            cost_usd=sum(metric.cost_usd for metric in metrics),
            errors=sum(wer.errors for wer in measured),
            words=sum(wer.words for wer in measured),
        )

    def lines(self, took_seconds: float, usd_per_hour: float) -> list[tuple[str, str]]:
        """Names and values, to be read."""
        cached = self.transcribed - self.recognitions
        share = f", {_percent(cached, self.transcribed)}" if self.transcribed else ""
        speed = (
            f"{self.audio_seconds:.0f} s of audio in {took_seconds:.1f} s: {self.audio_seconds / took_seconds:.0f} ×"
        )
        machine = f"at ${usd_per_hour:.2f} for an hour of this machine"
        price = "nothing: all of it was known"
        if self.heard_seconds:
            price = f"${self.cost_usd / self.heard_seconds * 60e6:,.0f} for a million minutes, {machine}"
        outcomes = f"{self.transcribed} transcripts, {self.dead_letters} dead letters"
        return [
            ("outcomes", f"{self.transcribed + self.dead_letters}: {outcomes}"),
            ("recognitions", f"{self.recognitions}; {cached} from the cache{share}"),
            ("speed", f"{speed} real time"),
            ("word errors", f"{self.errors} in {self.words} words: WER {_percent(self.errors, self.words)}"),
            ("cost", price),
        ]


def faults(published: Iterable[Published], known_digests: Iterable[str] = ()) -> list[str]:
    """Promises that were broken, each in a line; ``known_digests`` were heard in an earlier run."""
    found, heard = [], Counter(known_digests)
    for one in published:
        outcomes = len(one.transcripts) + len(one.dead_letters)
        if outcomes != 1 or len(one.metrics) != 1:
            found.append(f"{one.take.name}: {outcomes} outcomes and {len(one.metrics)} metrics instead of one of each")
        reasons = [letter.reason for letter in one.dead_letters]
        if reasons != ([one.take.reason] if one.take.reason else []):
            got = ", ".join(f"{letter.reason} ({letter.detail})" for letter in one.dead_letters) or "a transcript"
            found.append(f"{one.take.name}: {got} instead of {one.take.reason or 'a transcript'}")
        heard.update(transcript.sha256 for transcript in one.transcripts if not transcript.cached)
    names = {transcript.sha256: one.take.name for one in published for transcript in one.transcripts}
    return found + [f"{names.get(digest, digest)}: recognised {n} times" for digest, n in heard.items() if n > 1]


def show(console: Console, published: list[Published], totals: list[tuple[str, str]]) -> None:
    """Print transcripts, dead letters and sums, as wide as the terminal lets us."""
    heard = [(one, one.transcripts[0], one.metrics[0]) for one in published if one.transcripts and one.metrics]
    sums = _plain("In total")
    for name, value in totals:
        sums.add_row(Text(name, "bold"), Text(value))
    for table in ((_wide if console.width >= WIDE_COLUMNS else _narrow)(heard), _dead(published), sums):
        console.print()
        console.print(table)


_Heard = tuple[Published, Transcript, TranscriptionMetric]


def _wide(heard: list[_Heard]) -> Table:
    table = Table(title="Transcripts", padding=(0, 1), title_justify="left", title_style="bold")
    table.add_column("recording", no_wrap=True)
    table.add_column("text", ratio=1)
    for name in ("engine", "cached"):
        table.add_column(name, no_wrap=True)
    for name in ("audio", "latency", "cost", "WER"):
        table.add_column(name, no_wrap=True, justify="right")
    for one, transcript, metric in heard:
        cells = [transcript.engine.name, Text("cached", "green") if transcript.cached else "", *_figures(metric)]
        table.add_row(Text(one.take.name), Text(_short(transcript.text)), *cells)
    return table


def _narrow(heard: list[_Heard]) -> Table:
    table = _plain("Transcripts")
    table.add_column("recording", no_wrap=True)
    table.add_column("text", ratio=1)
    for one, transcript, metric in heard:
        audio, latency, cost, errors = _figures(metric)
        how = ("cached", "green") if transcript.cached else ("heard", "dim")
        figures = f"{transcript.engine.name} · {audio} in {latency} · {cost} · WER {errors}"
        below = Text.assemble(how, (f" · {figures}", "dim"))
        table.add_row(Text(one.take.name, "bold"), Text.assemble(_short(transcript.text), "\n", below))
    return table


def _plain(title: str) -> Table:
    shape = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=title)
    shape.title_justify, shape.title_style = "left", "bold"
    return shape


def _figures(metric: TranscriptionMetric) -> tuple[str, str, str, str]:
    wer = metric.wer
    return (
        f"{metric.audio_seconds or 0.0:.1f} s",
        f"{metric.latency_seconds.total:.2f} s",
        f"${metric.cost_usd:.6f}" if metric.cost_usd else "$0",
        "–" if wer is None else f"{wer.errors}/{wer.words}",
    )


def _dead(published: list[Published]) -> Table:
    table = _plain("Dead letters")
    table.add_column("recording", no_wrap=True)
    table.add_column("reason", no_wrap=True, style="red")
    table.add_column("detail", ratio=1)
    for one in published:
        for letter in one.dead_letters:
            table.add_row(Text(one.take.name, "bold"), Text(letter.reason), Text(letter.detail))
    return table


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST_TEXT, placeholder=" …")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
