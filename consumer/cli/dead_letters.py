"""``earwitness dead-letters``: look at failed work, publish it again, or lay it aside."""

import asyncio
import heapq
import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from consumer.cli import letter_views
from consumer.cli.context import settings_of
from consumer.core.review import (
    Action,
    Filters,
    Letter,
    LetterId,
    Mark,
    NotReplayableError,
    Row,
    known_reasons,
    replay_of,
)
from consumer.core.shown import parse_moment
from consumer.errors import EarwitnessError
from consumer.settings import Settings
from schemas.models import utc_now

if TYPE_CHECKING:
    from consumer.kafka.dead_letters import Desk
    from consumer.kafka.handling import Decision, Handled

T = TypeVar("T")

app = typer.Typer(help="Review failed work: look at it, publish it again, or lay it aside.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Letters by their ids, as in 3/17.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", metavar="CODE", help="Why it failed; repeatable.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose recording it was.")]
EventId = Annotated[str | None, typer.Option("--event-id", help="The event's id.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Failed then or later: RFC 3339, 2h, 3d.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Failed before that: RFC 3339, 2h, 3d.")]
OldestFirst = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many, oldest first.")]
AllMatching = Annotated[bool, typer.Option("--all-matching", help="Every letter that fits and is not handled yet.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    reason: Reasons = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many, newest first.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="Also those that were handled.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List dead letters that are not handled yet, newest first, and count them by reason."""
    filters = _filters(reason, tenant, event_id, since, until)
    counts: Counter[str] = Counter()

    async def collect(desk: "Desk") -> list[Row]:
        newest: list[tuple[object, LetterId, Row]] = []
        async for letter, mark in _matching(desk, filters, every=every):
            row = Row.of(letter, mark)
            counts[row.reason] += 1
            push = heapq.heappush if len(newest) < limit else heapq.heappushpop
            push(newest, (row.failed_at, row.id, row))
        return [row for *_, row in sorted(newest, reverse=True)]

    rows = _at_the_desk(settings_of(ctx), collect)
    if as_json:
        for row in rows:
            print(json.dumps(row.as_dict(), ensure_ascii=False))
        return
    letter_views.table(rows, sys.stdout, marks=every)
    letter_views.counts(counts, len(rows), sys.stdout)


@app.command()
def show(ctx: typer.Context, id_: Annotated[str, typer.Argument(metavar="ID", help="As listed: 3/17.")]) -> None:
    """Show all that is known of one dead letter: why, what to do, the event itself, and where it came from."""
    wanted = _ids([id_])[0]

    async def look(desk: "Desk") -> tuple[Letter | None, Mark | None]:
        return await desk.find(wanted), (await desk.marks(wanted.partition)).get(wanted)

    letter, mark = _at_the_desk(settings_of(ctx), look)
    if letter is None:
        raise EarwitnessError(f"there is no dead letter {wanted} (any more): see `earwitness dead-letters list`")
    letter_views.letter(letter, mark if mark is not None and mark.covers(letter) else None, utc_now())


@app.command()
def replay(
    ctx: typer.Context,
    ids: Ids = None,
    reason: Reasons = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    since: Since = None,
    until: Until = None,
    limit: OldestFirst = None,
    all_matching: AllMatching = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make now the event's published_at: its deadline begins anew.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Publish the original events again, each exactly once however often this is run, and mark the letters handled."""
    choice = _Choice.of(ids, _filters(reason, tenant, event_id, since, until), limit, all_matching)
    _handle(settings_of(ctx), choice, Action.REPLAYED, fresh=fresh, yes=yes)


@app.command()
def discard(
    ctx: typer.Context,
    ids: Ids = None,
    reason: Reasons = None,
    tenant: Tenant = None,
    event_id: EventId = None,
    since: Since = None,
    until: Until = None,
    limit: OldestFirst = None,
    all_matching: AllMatching = False,
    yes: Yes = False,
) -> None:
    """Mark dead letters as handled without publishing anything; the letters stay, and `list --all` shows them."""
    choice = _Choice.of(ids, _filters(reason, tenant, event_id, since, until), limit, all_matching)
    _handle(settings_of(ctx), choice, Action.DISCARDED, fresh=False, yes=yes)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which letters a command is to handle: those named, or those that fit."""

    ids: list[LetterId]
    filters: Filters
    limit: int | None

    @classmethod
    def of(cls, ids: list[str] | None, filters: Filters, limit: int | None, all_matching: bool) -> "_Choice":
        if ids and (all_matching or limit is not None or filters != Filters()):
            raise typer.BadParameter("name letters or give filters, not both", param_hint="ID...")
        if not ids and not all_matching and filters == Filters():
            raise typer.BadParameter(
                "name letters by their ids, give filters (--reason, --since, ...), or say --all-matching",
                param_hint="ID...",
            )
        return cls(_ids(ids or []), filters, limit)


def _handle(settings: Settings, choice: _Choice, action: Action, *, fresh: bool, yes: bool) -> None:
    """Say what would be done, ask, do it, and say what was done."""
    show = letter_views.Progress(action)
    # first looked at, then handled, with a person's answer in between: what counts is what is so when it is handled
    wanted, rows = _at_the_desk(settings, lambda desk: _plan(desk, settings, choice, action, show, fresh))
    if rows:
        letter_views.plan(rows, show.notes, action, settings.topics.events, fresh=fresh)
        if not yes:
            _ask()
    if wanted:

        def decide(letter: Letter, run: str) -> "Decision":
            return _decide(settings, letter, run, action, fresh=fresh)

        _at_the_desk(settings, lambda desk: _carry_out(desk, wanted, decide, show))
    show.conclude()


def _ask() -> None:
    # not typer.confirm: it writes a blank to stdout, which is for results
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise EarwitnessError("nothing was done (--yes does not ask)")


async def _plan(
    desk: "Desk", settings: Settings, choice: _Choice, action: Action, show: letter_views.Progress, fresh: bool
) -> tuple[list[LetterId], list[Row]]:
    rows: list[Row] = []
    async for letter, mark in _chosen(desk, choice, show):
        row = Row.of(letter, mark)
        if mark is not None:
            show.already(row.id, mark)
            continue
        rows.append(row)
        if action is Action.REPLAYED:
            show.note(row.id, _outlook(settings, letter, fresh))
    rows.sort(key=lambda row: (row.failed_at, row.id))
    rows = rows[: choice.limit]
    return [row.id for row in rows], rows


async def _chosen(
    desk: "Desk", choice: _Choice, show: letter_views.Progress
) -> AsyncGenerator[tuple[Letter, Mark | None], None]:
    if not choice.ids:
        async with aclosing(_matching(desk, choice.filters, every=False)) as found:
            async for pair in found:
                yield pair
        return
    marks = await desk.marks()
    for id_ in sorted(set(choice.ids)):
        letter, mark = await desk.find(id_), marks.get(id_)
        if letter is None:
            show.refused(id_, "there is no such dead letter (any more)")
        else:
            yield letter, mark if mark is not None and mark.covers(letter) else None


async def _matching(desk: "Desk", filters: Filters, *, every: bool) -> AsyncGenerator[tuple[Letter, Mark | None], None]:
    """Letters that fit, with their marks; those handled only if ``every``."""
    marks = await desk.marks()
    since_ms = None if filters.since is None else round(filters.since.timestamp() * 1000)
    async with aclosing(desk.letters(since_ms)) as letters:
        async for letter in letters:
            mark = marks.get(letter.id)
            mark = mark if mark is not None and mark.covers(letter) else None
            if (every or mark is None) and filters.match(letter):
                yield letter, mark


async def _carry_out(
    desk: "Desk", ids: list[LetterId], decide: Callable[[Letter, str], "Decision"], show: letter_views.Progress
) -> None:
    async with aclosing(desk.handle(ids, decide)) as handled:
        async for one in handled:
            _tell(one, show)


def _tell(one: "Handled", show: letter_views.Progress) -> None:
    if one.mark is None:
        show.refused(one.id, one.refused)
    elif one.by_us:
        show.done(one.id, one.mark)
    else:
        show.already(one.id, one.mark)


def _decide(settings: Settings, letter: Letter, run: str, action: Action, *, fresh: bool) -> "Decision":
    from consumer.kafka.handling import Decision

    now, written_ms = utc_now(), letter.record.timestamp_ms
    if action is Action.DISCARDED:
        return Decision(Mark(action=action, at=now, letter_timestamp_ms=written_ms, run=run))
    again = replay_of(letter, fresh=fresh, now=now, limit_bytes=settings.max_event_bytes)
    mark = Mark(action=action, at=now, letter_timestamp_ms=written_ms, run=run, replay=again.number)
    return Decision(mark, again.write(settings.topics.events))


def _outlook(settings: Settings, letter: Letter, fresh: bool) -> str:
    """What is to be said of a replay before it is done; empty if nothing."""
    try:
        again = replay_of(letter, fresh=fresh, now=utc_now(), limit_bytes=settings.max_event_bytes)
    except NotReplayableError as error:
        return f"will be left alone: {error}"
    if again.expired is not None:
        return f"will fail again: its deadline was {again.expired:%Y-%m-%d %H:%M:%S}Z; --fresh begins it anew"
    return "its bytes will differ: published_at becomes now" if again.freshened else ""


def _at_the_desk(settings: Settings, work: "Callable[[Desk], Awaitable[T]]") -> T:
    from consumer.kafka.dead_letters import review_desk

    async def at_the_desk() -> T:
        async with review_desk(settings) as desk:
            return await work(desk)

    return asyncio.run(at_the_desk())


def _filters(
    reasons: list[str] | None, tenant: str | None, event_id: str | None, since: str | None, until: str | None
) -> Filters:
    now = utc_now()
    try:
        return Filters(
            known_reasons(reasons or []),
            tenant,
            event_id,
            None if since is None else parse_moment(since, now),
            None if until is None else parse_moment(until, now),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _ids(texts: list[str]) -> list[LetterId]:
    try:
        return [LetterId.parse(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ID") from error
