"""How the figures of some hours look on a terminal and in a pipe."""

from datetime import datetime
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.core import figures
from consumer.core.summary import Summary

PIPED_COLUMNS = 400
"""Wide enough that nothing is cut short for a program or a file."""


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
    shape = Table(*table.heads, box=None, pad_edge=False, header_style="bold", show_header=bool(table.heads))
    for column in shape.columns[1:]:
        column.justify = "right"
    for row in table.rows:
        shape.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(shape)
