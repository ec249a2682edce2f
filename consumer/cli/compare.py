"""``earwitness compare``: engine against engine, by language, length and tenant."""

import json
from datetime import datetime
from typing import Annotated

import typer

from consumer.cli.context import settings_of
from consumer.cli.summary import Hours, read_all, span_of
from consumer.core.compare import REFERENCE, Comparison, Row
from consumer.core.shown import visible

_HEADINGS = ("by", "", "engine", "against", "events", "words", "errors a word", "95 % interval")
_NUMBERS_FROM = 4
"""Columns from here on are numbers, and end on the right."""


def compare(
    ctx: typer.Context,
    hours: Hours = 24.0 * 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare engines: WER where references exist, disagreement where a second engine heard, with 95 % intervals."""
    since, until = span_of(hours)
    comparison = Comparison()
    unreadable = read_all(settings_of(ctx), since, until, comparison.add)
    rows = list(comparison.rows())
    if as_json:
        span = {"since": f"{since:%FT%TZ}", "until": f"{until:%FT%TZ}", "unreadable": unreadable}
        print(json.dumps({**span, "rows": [row.as_dict() for row in rows]}, indent=2, ensure_ascii=False))
        return
    print("\n".join(_lines(rows, since, until)))
    if unreadable:
        typer.echo(f"warning: {unreadable} records are no metric events, and are not counted", err=True)


def _lines(rows: list[Row], since: datetime, until: datetime) -> list[str]:
    span = f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
    if not rows:
        return [f"{span}: no event had a reference text, or was heard by a second engine (shadow_engine)"]
    cells = [_HEADINGS, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    heading = f"{span}; against {REFERENCE}: WER; against an engine: disagreement"
    return [heading, "", *(_line(row, widths) for row in cells)]


def _cells(row: Row) -> tuple[str, ...]:
    group = row.group
    interval = "too few" if row.interval is None else f"{row.interval[0]:.2%} to {row.interval[1]:.2%}"
    names = (group.by, visible(group.value), visible(group.engine), visible(group.against))
    return (*names, str(row.events), str(row.words), f"{row.rate:.2%}", interval)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    padded = (
        cell.rjust(width) if column >= _NUMBERS_FROM else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(padded).rstrip()
