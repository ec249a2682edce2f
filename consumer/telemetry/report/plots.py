"""The report's plots. Colours are numbers here; the page knows what they are by day and by night."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from plotly import graph_objects as go

from consumer.core.figures import engine_name, number, share, usd
from consumer.core.summary import LENGTHS_SECONDS, STAGES, Summary, Timeline

_FIRST, _SECOND, _THIRD, _FAILURE = 1, 2, 3, 6
"""Of the page's palette; the last is kept for what went wrong."""
_PALETTE_ENGINES = 5
_PATTERNS = ("", "/", ".", "-", "|", "x")
"""Beside the colours, which not everybody can tell from each other."""

Slices = Sequence[tuple[datetime, Summary]]


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot, and what it says in words."""

    title: str
    note: str
    json: str | None
    """Plotly's own, made harmless: labels are read as HTML there. None where there is nothing to draw."""


def plots(timeline: Timeline) -> list[Plot]:
    """All of them, in the page's order."""
    slices, whole, total = timeline.slices(), timeline.whole, timeline.whole.total
    every = f"every {_span(timeline.slice_seconds)}, times in UTC"
    cost, cached = usd(total.cost_usd), f"{share(total.cache_share)} in all" if total.transcribed else "there were none"
    spent, compared = total.cost_usd, total.wer.words or total.disagreement.words
    lengths = f"events by length; {number(sum(whole.lengths.values()))} had one"
    stages = "p50, p95 and p99 of the events that went through it"
    return [
        _plot("Throughput", f"events, {every}", _throughput(slices), barmode="stack", yaxis=_EVENTS),
        _plot("Latency", f"from publication to commit, {every}", _latency(slices), yaxis=_LOG),
        _plot("Latency by stage", stages, _stages(whole), xaxis=_across(whole)),
        _plot("Cost by engine", f"{every}; {cost} in all", _cost(slices, whole), known=spent, **_SPENT),
        _plot(
            "Cache share", f"of transcripts, {every}; {cached}", _cache(slices), known=total.transcribed, yaxis=_SHARE
        ),
        _plot("Word errors", _error_note(whole), _errors(slices), known=compared, yaxis=_RATE),
        _plot("Length of recordings", lengths, _lengths(whole), known=whole.lengths, yaxis=_EVENTS, **_CLASSES),
    ]


def _log(ticks_ms: Sequence[int]) -> dict[str, Any]:
    texts = [f"{tick} ms" if tick < 1000 else f"{tick // 1000:,} s" for tick in ticks_ms]
    return {"type": "log", "tickvals": [tick / 1000 for tick in ticks_ms], "ticktext": texts}


_LOG = _log([digit * 10**power for power in range(10) for digit in (1, 3)])
_LOG_ACROSS = _log([10**power for power in range(10)])
"""Where many would stand side by side there is room for half of them, on a phone."""
_FEW = 100


def _across(whole: Summary) -> dict[str, Any]:
    """Of the stages' axis: the shortest median and the longest p99 decide."""
    every = [whole.total.latency, *whole.stages.values()]
    ends = [time for of in every for rank in (0.5, 0.99) if (time := of.quantile(rank))]
    return _LOG if ends and max(ends) / min(ends) <= _FEW else _LOG_ACROSS


_EVENTS = {"title": {"text": "events"}}
_SPENT = {"barmode": "stack", "yaxis": {"tickprefix": "$", "exponentformat": "none"}}
_CLASSES = {"xaxis": {"tickangle": -45, "nticks": 0}, "margin": {"b": 65}, "bargap": 0.08}
_SHARE = {"tickformat": ".0%", "range": [0, 1.02]}
_RATE = {"tickformat": ".1%", "rangemode": "tozero"}


def _plot(title: str, note: str, traces: Sequence[Any], *, known: object = True, **layout: Any) -> Plot:
    figure = go.Figure(traces)
    figure.update_layout(template="none", showlegend=len(traces) > 1, **layout)
    return Plot(title, note, str(figure.to_json()) if known else None)


def _throughput(slices: Slices) -> list[Any]:
    tallies = [sums.total for _, sums in slices]
    return [
        _bars("heard", _FIRST, slices, [tally.transcribed - tally.cached for tally in tallies]),
        _bars("from cache", _SECOND, slices, [tally.cached for tally in tallies]),
        _bars("dead letters", _FAILURE, slices, [tally.dead_letters for tally in tallies]),
    ]


def _latency(slices: Slices) -> list[Any]:
    return [
        _line(name, color, slices, [sums.total.latency.quantile(rank) for _, sums in slices], dash)
        for name, color, rank, dash in (("p50", _FIRST, 0.5, "solid"), ("p95", _SECOND, 0.95, "dash"))
    ]


def _stages(whole: Summary) -> list[Any]:
    found = [
        ("total", whole.total.latency),
        *((stage, whole.stages[stage]) for stage in STAGES if stage in whole.stages),
    ]
    found.reverse()  # plotly begins at the bottom
    return [
        go.Scatter(
            name=f"p{rank}",
            x=[of.quantile(rank / 100) or None for _, of in found],
            y=[stage for stage, _ in found],
            mode="markers",
            marker={"size": 11, "symbol": symbol},
            meta={"color": color},
        )
        for rank, color, symbol in ((50, _FIRST, "circle"), (95, _SECOND, "diamond"), (99, _THIRD, "square"))
    ]


def _cost(slices: Slices, whole: Summary) -> list[Any]:
    paid = sorted(whole.spent_usd, key=lambda engine: -whole.spent_usd[engine])
    return [
        _bars(
            escape(engine_name(engine)),
            place % _PALETTE_ENGINES + 1,
            slices,
            [float(sums.spent_usd.get(engine, 0)) for _, sums in slices],
        )
        for place, engine in enumerate(paid)
    ]


def _cache(slices: Slices) -> list[Any]:
    return [_line("from cache", _SECOND, slices, [sums.total.cache_share for _, sums in slices])]


def _errors(slices: Slices) -> list[Any]:
    return [
        _line("WER", _FIRST, slices, [sums.total.wer.rate for _, sums in slices]),
        _line("disagreement", _SECOND, slices, [sums.total.disagreement.rate for _, sums in slices], "dash"),
    ]


def _error_note(whole: Summary) -> str:
    wer, disagreement = whole.total.wer, whole.total.disagreement
    if not wer.words and not disagreement.words:
        return "no event came with a reference text, and none was heard twice"
    return f"errors per word: WER {share(wer.rate)}, disagreement {share(disagreement.rate)} in all"


def _lengths(whole: Summary) -> list[Any]:
    bounds = [_span(bound) for bound in LENGTHS_SECONDS]
    names = [f"≤ {bound}" for bound in bounds] + [f"> {bounds[-1]}"]
    counts = [whole.lengths[class_] for class_ in range(len(names))]
    return [go.Bar(name="events", x=names, y=counts, meta={"color": _FIRST})]


def _bars(name: str, color: int, slices: Slices, values: Sequence[float]) -> Any:
    pattern = {"shape": _PATTERNS[color - 1], "fillmode": "overlay", "size": 6, "solidity": 0.25}
    marker = {"pattern": pattern}
    return go.Bar(name=name, x=[begin for begin, _ in slices], y=values, marker=marker, meta={"color": color})


def _line(name: str, color: int, slices: Slices, values: Sequence[float | None], dash: str = "solid") -> Any:
    return go.Scatter(
        name=name,
        x=[begin for begin, _ in slices],
        y=values,
        mode="lines+markers",
        marker={"size": 4},
        line={"width": 2, "dash": dash},
        meta={"color": color},
    )


def _span(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
