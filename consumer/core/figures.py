"""The figures of a summary as people read them: rows of text for tables on a terminal and on a page; pure.

Names that others wrote are made harmless for a terminal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from consumer.core.shown import visible
from consumer.core.summary import NO_ENGINE, STAGES, Engine, Summary, Timeline
from consumer.core.windows import Tally, WordSums

TENANTS_AT_MOST = 20
_HEADS = ("events", "dead letters", "from cache", "audio", "p50", "p95", "cost USD", "WER")

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One of the tables; the first column names, the others count."""

    heads: Row
    rows: Sequence[Row]


def tables(sums: Summary) -> Iterator[Table]:
    """Those that have rows, the totals not among them."""
    yield Table(("engine", *_HEADS), engines(sums))
    yield Table(("tenant", *_HEADS), tenants(sums))
    if sums.stages:
        yield Table(("stage", "events", "mean", "p50", "p95", "p99"), stages(sums))
    if sums.reasons:
        rows = [(code, number(count)) for code, count in sums.reasons.most_common()]
        yield Table(("dead letters by reason", "count"), rows)


def over_time(timeline: Timeline) -> Table:
    """What the plots show over time, in figures."""
    rows = [_row(f"{begin:%m-%d %H:%M}", sums.total) for begin, sums in timeline.slices()]
    return Table(("from (UTC)", *_HEADS), rows)


def totals(sums: Summary) -> list[Row]:
    """What and how much, in words."""
    total = sums.total
    latency = ", ".join(f"p{share} {seconds(total.latency.quantile(share / 100))}" for share in (50, 95, 99))
    routes = ", ".join(f"{number(count)} {route}" for route, count in sums.routes.most_common())
    return [
        ("events", number(total.events)),
        ("transcripts", number(total.transcribed)),
        ("dead letters", number(total.dead_letters)),
        ("audio", hours(total.audio_seconds)),
        ("latency", f"mean {seconds(total.latency.mean)}, {latency}"),
        ("cost", f"{usd(total.cost_usd)}, of which {usd(total.paid_usd)} to APIs"),
        ("from cache", f"{share(total.cache_share)} of the transcripts" if total.transcribed else "-"),
        ("WER", words(total.wer)),
        ("disagreement", words(total.disagreement)),
        ("routes", routes or "-"),
    ]


def engines(sums: Summary) -> list[Row]:
    """A row for each engine; its cost is what was paid to it, whoever served in the end."""
    return [
        _row(engine_name(engine), sums.by_engine.get(engine, Tally()), sums.spent_usd.get(engine, Decimal(0)))
        for engine in sums.engines()
    ]


def tenants(sums: Summary) -> list[Row]:
    """A row for each of the busiest tenants, and one for all others."""
    names = sums.tenants()
    rows = [_row(visible(name), sums.by_tenant[name]) for name in names[:TENANTS_AT_MOST]]
    others = Tally()
    for name in names[TENANTS_AT_MOST:]:
        others.merge(sums.by_tenant[name])
    return [*rows, _row(f"{len(names) - TENANTS_AT_MOST} others", others)] if others.events else rows


def stages(sums: Summary) -> list[Row]:
    """A row for each stage that happened."""
    found = [(stage, sums.stages[stage]) for stage in STAGES if stage in sums.stages]
    return [
        (stage, number(of.count), seconds(of.mean), *(seconds(of.quantile(share)) for share in (0.5, 0.95, 0.99)))
        for stage, of in found
    ]


def _row(name: str, tally: Tally, cost_usd: Decimal | None = None) -> Row:
    return (
        name,
        number(tally.events),
        number(tally.dead_letters),
        share(tally.cache_share),
        hours(tally.audio_seconds),
        seconds(tally.latency.quantile(0.5)),
        seconds(tally.latency.quantile(0.95)),
        f"{tally.cost_usd if cost_usd is None else cost_usd:,.4f}",
        share(tally.wer.rate),
    )


def engine_name(engine: Engine) -> str:
    """For people."""
    return "no engine" if engine == NO_ENGINE else visible(" ".join(engine).strip())


def number(count: int) -> str:
    return f"{count:,}"


def hours(audio_seconds: float) -> str:
    if audio_seconds >= 36:
        return f"{audio_seconds / 3600:,.2f} h"
    return f"{audio_seconds:.1f} s" if audio_seconds else "-"


def seconds(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} s"


def usd(amount: Decimal) -> str:
    return f"{amount:,.4f} USD"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def words(sums: WordSums) -> str:
    if not sums.words:
        return "-"
    return f"{share(sums.rate)} ({number(sums.errors)} errors in {number(sums.words)} words)"
