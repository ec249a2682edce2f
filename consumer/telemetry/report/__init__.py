"""The report: one self-contained page with plots and tables, which asks nobody for anything."""

from html import escape
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs

from consumer.core import figures
from consumer.core.summary import Timeline
from consumer.telemetry.report.plots import Plot, plots


def page(timeline: Timeline, unreadable: int) -> str:
    """The whole page as HTML."""
    sums = timeline.whole
    span = f"{timeline.since:%Y-%m-%d %H:%M} to {timeline.until:%Y-%m-%d %H:%M} UTC"
    left_out = f"{unreadable} records on the metrics topic are no metric events and are not counted."
    drawn = plots(timeline) if sums.total.events else []
    return Template(_asset("page.html")).substitute(
        span=span,
        left_out=f"<p>{left_out}</p>" if unreadable else "",
        body=_body(timeline, drawn) if drawn else "<p class='empty'>No events ended in this time.</p>",
        style=_asset("page.css"),
        plotly=f"<script>{get_plotlyjs()}</script>" if drawn else "",
        # a name in it must not end the script
        data="[" + ",".join(plot.json for plot in drawn if plot.json).replace("<", "\\u003c") + "]",
        script=_asset("page.js"),
    )


def _body(timeline: Timeline, drawn: list[Plot]) -> str:
    sums = timeline.whole
    totals = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(said)}</dd></div>" for name, said in figures.totals(sums)
    )
    tables = "".join(map(_table, figures.tables(sums)))
    slices = f"<details><summary>Over time, in figures</summary>{_table(figures.over_time(timeline))}</details>"
    return (
        f"<section aria-label='Totals'><dl>{totals}</dl></section>"
        f"<section class='plots' aria-label='Plots'>{''.join(map(_figure, drawn))}</section>"
        f"<section class='tables' aria-label='Tables'>{slices}{tables}</section>"
    )


def _figure(plot: Plot) -> str:
    label = escape(f"{plot.title}: {plot.note}")
    drawn = f"<div class='plot' role='img' aria-label='{label}'></div>" if plot.json else "<p>Nothing to draw.</p>"
    return f"<figure><figcaption><h2>{escape(plot.title)}</h2><p>{escape(plot.note)}</p></figcaption>{drawn}</figure>"


def _table(table: figures.Table) -> str:
    heads = "".join(f"<th scope='col'>{escape(head)}</th>" for head in table.heads)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in table.rows
    )
    label = escape(f"By {table.heads[0]}")
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{label}'>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
