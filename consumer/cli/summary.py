"""``earwitness summary`` and ``earwitness report``: the figures of the last hours, to read and to look at."""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.context import settings_of
from consumer.core.summary import Summary, Timeline
from consumer.errors import EarwitnessError
from consumer.settings import Settings
from schemas.models import TranscriptionMetric, utc_now

Hours = Annotated[float, typer.Option("--hours", min=0.01, max=24 * 366, help="How far back, by when events ended.")]


def summary(
    ctx: typer.Context,
    hours: Hours = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the figures of the last hours: events, audio, latency, cost, word errors, by engine and tenant."""
    from consumer.cli import summary_view

    since, until = span_of(hours)
    sums = Summary()
    unreadable = read_all(settings_of(ctx), since, until, sums.add)
    if as_json:
        span = {"since": f"{since:%FT%TZ}", "until": f"{until:%FT%TZ}", "unreadable": unreadable}
        print(json.dumps({**span, **sums.as_dict()}, indent=2, ensure_ascii=False))
    else:
        summary_view.show(sums, since, until, unreadable, sys.stdout)


def report(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="Where to write the page.", dir_okay=False)],
    hours: Hours = 24.0,
) -> None:
    """Write one self-contained page with the figures of the last hours and how they went."""
    from consumer.telemetry.report import page

    since, until = span_of(hours)
    timeline = Timeline(since, until)
    unreadable = read_all(settings_of(ctx), since, until, timeline.add)
    try:
        out.write_text(page(timeline, unreadable), encoding="utf-8")
    except OSError as error:
        raise EarwitnessError(f"{out} cannot be written: {error.strerror}") from error
    print(f"{out}: {timeline.whole.total.events} events")


def span_of(hours: float) -> tuple[datetime, datetime]:
    """So many hours until now, in UTC."""
    until = utc_now()
    return until - timedelta(hours=hours), until


def read_all(settings: Settings, since: datetime, until: datetime, add: Callable[[TranscriptionMetric], None]) -> int:
    """Add every metric event of that time; how many records were none."""
    from consumer.kafka.reading import reading

    async def read() -> int:
        async with reading(settings, settings.topics.metrics) as reader:
            async with aclosing(reader.metrics(since, until)) as metrics:
                async for metric in metrics:
                    add(metric)
            return reader.unreadable

    return asyncio.run(read())
