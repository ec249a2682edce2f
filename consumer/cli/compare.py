"""``earwitness compare``: engine against engine, by language, length and tenant."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.cli.context import settings_of
from consumer.cli.summary import Hours, read_all, span_of
from consumer.core.compare import REFERENCE, Comparison, Row
from consumer.core.cost import MINUTES
from consumer.core.shown import visible

_ROWS = ("by", "", "engine", "against", "events", "words", "errors", "errors a word", "95 % interval")
_COSTS = ("engine", "tries", "audio minutes", "USD", "USD for a million minutes")


def compare(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH|URI...",
            help="Files, folders, addresses to hear with both engines; NAME.txt beside: the text.",
        ),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="And those of a manifest, with its `reference_text`; - is stdin."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The first engine; absent: the configured one.")] = None,
    model: Annotated[str | None, typer.Option(help="Its model; for openai the API's.")] = None,
    against: Annotated[str | None, typer.Option(help="The second engine; absent: shadow_engine.")] = None,
    against_model: Annotated[str | None, typer.Option(help="Its model; absent: shadow_model.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language, as in en or de-CH.")] = None,
    hours: Hours = 24.0 * 30,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare engines: WER where references exist, disagreement where two heard, with 95 % intervals, and costs.

    Without recordings: what the service has published of its engine and its shadow_engine in the last hours.
    """
    comparison = Comparison()
    if sources or jsonl is not None:
        from consumer.cli.compare_recordings import compare_recordings, missing

        told = compare_recordings(
            ctx, sources or [], jsonl, (engine, model), (against, against_model), language, comparison.add
        )
        _print(comparison, f"{told['compared']} of {told['recordings']} recordings", told, as_json=as_json)
        missing(told)
        return
    if any((engine, model, against, against_model, language)):
        raise typer.BadParameter("engines are chosen for recordings: name files, folders, addresses, or --jsonl")
    since, until = span_of(hours)
    unreadable = read_all(settings_of(ctx), since, until, comparison.add)
    told = {"since": f"{since:%FT%TZ}", "until": f"{until:%FT%TZ}", "unreadable": unreadable}
    _print(comparison, f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC", told, as_json=as_json)
    if unreadable:
        typer.echo(f"warning: {unreadable} records are no metric events, and are not counted", err=True)


def _print(comparison: Comparison, span: str, told: dict[str, Any], *, as_json: bool) -> None:
    rows, costs = list(comparison.rows()), sorted(comparison.costs.items())
    if as_json:
        spent = [{"engine": engine, **cost.as_dict()} for engine, cost in costs]
        found = {**told, "rows": [row.as_dict() for row in rows], "costs": spent}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"{span}: no event had a reference text, or was heard by a second engine (shadow_engine)")
        return
    priced = [
        (
            visible(engine),
            str(cost.count),
            f"{cost.audio_seconds / 60:.1f}",
            f"{cost.usd:.4f}",
            f"{cost.usd / cost.audio_seconds * 60 * MINUTES:.0f}" if cost.audio_seconds else "",
        )
        for engine, cost in costs
    ]
    heading = f"{span}; against {REFERENCE}: WER; against an engine: disagreement"
    table = _table([_ROWS, *map(_cells, rows)], numbers_from=4)
    print("\n".join([heading, "", *table, *(["", *_table([_COSTS, *priced], numbers_from=1)] if priced else [])]))


def _cells(row: Row) -> tuple[str, ...]:
    group = row.group
    interval = "too few" if row.interval is None else f"{row.interval[0]:.2%} to {row.interval[1]:.2%}"
    names = (group.by, visible(group.value), visible(group.engine), visible(group.against))
    return (*names, str(row.events), str(row.words), str(row.errors), f"{row.rate:.2%}", interval)


def _table(rows: list[tuple[str, ...]], *, numbers_from: int) -> list[str]:
    """Columns from ``numbers_from`` on are numbers, and end on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column >= numbers_from else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
