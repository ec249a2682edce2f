"""How the figures of some hours look on a terminal and in a pipe."""

from datetime import datetime
from typing import IO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumer.core import figures
from consumer.core.summary import Summary

PIPED_COLUMNS = 400
"""Wide enough that nothing is cut short for a program or a file."""
_NAME_COLUMNS = 12
"""A name is broken to fit, but not into shreds; a figure never is."""


def show(sums: Summary, since: datetime, until: datetime, unreadable: int, file: IO[str]) -> None:
    """Everything as tables; a stretch without events as a line that says so."""
    console = Console(file=file, width=None if file.isatty() else PIPED_COLUMNS, highlight=False)
    console.print(Text(f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC", "bold"))
    if unreadable:
        console.print(f"{unreadable} records on the metrics topic are no metric events and are not counted")
    if not sums.total.events:
        console.print("no events ended in this time")
        return
    _print(console, figures.Table((), figures.totals(sums)))
    for table in figures.tables(sums):
        _print(console, table)


def _print(console: Console, table: figures.Table) -> None:
    console.print()
    cut = figures.Table(table.heads, [(name[:_NAME_COLUMNS], *cells) for name, *cells in table.rows])
    as_wide_as_it_likes = console.options.update(max_width=PIPED_COLUMNS)
    if table.heads and console.measure(_shape(cut), options=as_wide_as_it_likes).maximum > console.width:
        _print_narrow(console, table)
    else:
        console.print(_shape(table))


def _shape(table: figures.Table) -> Table:
    shape = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(table.heads))
    for place, head in enumerate(table.heads):
        if place:
            shape.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True)
        else:
            shape.add_column(head, overflow="fold")
    for row in table.rows:
        shape.add_row(*map(Text, row))
    return shape


def _print_narrow(console: Console, table: figures.Table) -> None:
    for name, *cells in table.rows:
        console.print(Text(name, "bold"))
        said = ", ".join(f"{head} {cell}" for head, cell in zip(table.heads[1:], cells, strict=True))
        console.print(Padding(Text(said), (0, 0, 0, 2)))
