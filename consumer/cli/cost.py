"""``earwitness cost``: what was spent, and what other ways would have cost."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from consumer.cli.context import settings_of
from consumer.core.cost import MINUTES, Costs, Spent
from consumer.core.prices import ApiModel, api_model
from consumer.core.shown import parse_moment, visible
from consumer.settings import Settings
from schemas.models import BudgetAccount, BudgetEntry, utc_now

if TYPE_CHECKING:
    from consumer.kafka.reading import Reader

Since = Annotated[str, typer.Option("--since", metavar="TIME", help="Completed then or later: RFC 3339, 2h, 30d.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Completed before that; absent: now.")]


def cost(
    ctx: typer.Context,
    since: Since = "30d",
    until: Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print what was spent by day, tenant and engine, and what a million minutes would cost in other ways."""
    now = utc_now()
    begin = _moment(since, now, "--since")
    end = now if until is None else _moment(until, now, "--until")
    settings = settings_of(ctx)
    costs, accounts = asyncio.run(_read(settings, begin, end))
    beyond = costs.beyond_usd(accounts, begin, end, now)
    api = api_model(settings.api_model, settings.api_usd_per_minute)
    if as_json:
        print(json.dumps(_as_dict(costs, beyond, api, begin, end), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(costs, beyond, api, begin, end)))


def _moment(text: str, now: datetime, flag: str) -> datetime:
    try:
        return parse_moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from error


async def _read(settings: Settings, since: datetime, until: datetime) -> tuple[Costs, list[BudgetAccount]]:
    """The books, and each lane's latest word on the budgets."""
    from consumer.kafka.reading import reading

    costs = Costs()
    async with reading(settings, settings.topics.metrics) as reader:
        # first the budgets: what is settled meanwhile must not look as if it were lost
        accounts = await _accounts(reader, settings.topics.budget)
        async with aclosing(reader.metrics(since, until)) as metrics:
            async for metric in metrics:
                costs.add(metric)
        if reader.unreadable:
            typer.echo(f"warning: {reader.unreadable} records are no metric events, and are not counted", err=True)
    return costs, accounts


async def _accounts(reader: "Reader", topic: str) -> list[BudgetAccount]:
    latest: dict[bytes | None, bytes | None] = {}
    if topic in reader.counts:
        async with aclosing(reader.scan(await reader.starts(topic))) as records:
            async for record in records:
                latest[record.key] = record.value
    found = []
    for value in filter(None, latest.values()):
        try:
            found += BudgetEntry.model_validate_json(value).accounts
        except ValidationError:
            typer.echo(f"warning: a record on {topic} is no budget entry, and is not counted", err=True)
    return found


def _as_dict(
    costs: Costs, beyond: Mapping[str, Decimal], api: ApiModel, since: datetime, until: datetime
) -> dict[str, object]:
    share = costs.cache_share
    return {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "total": costs.total.as_dict(),
        "by_day": _dicts(costs.by_day),
        "by_tenant": _dicts(costs.by_tenant),
        "by_engine": [
            {"engine": engine, "model": model, **line.as_dict()} for (engine, model), line in _dearest(costs.by_engine)
        ],
        "failed_tries": costs.failed.as_dict(),
        "unlisted_usd": float(costs.unlisted_usd),
        "reserved_and_lost_usd": {period: float(usd) for period, usd in beyond.items()},
        "cache_share": None if share is None else float(share),
        "per_million_minutes": {"api_model": api.name, **costs.what_if(api).as_dict()},
    }


def _dicts(lines: Mapping[str, Spent]) -> dict[str, dict[str, float]]:
    return {name: line.as_dict() for name, line in sorted(lines.items())}


def _dearest(lines: Mapping[tuple[str, str], Spent]) -> list[tuple[tuple[str, str], Spent]]:
    return sorted(lines.items(), key=lambda item: (-item[1].usd, item[0]))


def _lines(costs: Costs, beyond: Mapping[str, Decimal], api: ApiModel, since: datetime, until: datetime) -> list[str]:
    span = f"{since.astimezone(UTC):%Y-%m-%d %H:%M} to {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    lost = [
        f"reserved and lost, or not settled yet: ${usd:f} more, which the budget of {period} counts as spent"
        for period, usd in beyond.items()
    ]
    if not costs.total.count:
        return [f"no event was completed from {span}", *lost]
    found = [f"{span}: {costs.total.count} events, ${costs.total.usd:f}", ""]
    for title, lines in (("day", costs.by_day), ("tenant", costs.by_tenant)):
        found += _table(title, "events", {visible(name): line for name, line in sorted(lines.items())})
    engines = {visible(f"{engine} {model}"): line for (engine, model), line in _dearest(costs.by_engine)}
    found += _table("engine and model", "tries", engines)
    if costs.failed.count:
        found.append(f"of these, {costs.failed.count} tries failed, and cost ${costs.failed.usd:f}")
    if costs.unlisted_usd:
        found.append(f"tries that are not listed one by one cost ${costs.unlisted_usd:f}")
    return [*found, *lost, *_what_if_lines(costs, api)]


def _table(title: str, unit: str, lines: Mapping[str, Spent]) -> list[str]:
    if not lines:
        return []
    width = max(len(title), *map(len, lines))
    rows = [f"{title:<{width}}  {unit:>9}  {'minutes':>12}  {'US dollars':>14}"]
    for name, line in lines.items():
        rows.append(f"{name:<{width}}  {line.count:>9}  {line.audio_seconds / 60:>12.1f}  {line.usd:>14.6f}")
    return [*rows, ""]


def _what_if_lines(costs: Costs, api: ApiModel) -> list[str]:
    share, what_if = costs.cache_share, costs.what_if(api)
    if share is None:
        return ["no audio was transcribed: nothing tells what other ways would have cost"]
    ways = {
        "this policy": what_if.this_policy_usd,
        f"all by the API ({api.name})": what_if.all_api_usd,
        "all by one's own engine": what_if.all_local_usd,
        "all by the API, nothing remembered": what_if.all_api_no_memory_usd,
    }
    width = max(map(len, ways))
    heading = f"{share:.1%} of the audio was answered from memory; {MINUTES:,} minutes of such traffic cost:"
    return [heading, *(f"  {way:<{width}}  {_usd(usd)}" for way, usd in ways.items())]


def _usd(value: Decimal | None) -> str:
    return "unknown: it heard nothing in this time" if value is None else f"${value:,.2f}"
