"""``earwitness publish``: audio events for files, folders, addresses and manifests."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli.context import settings_of
from consumer.errors import EarwitnessError
from consumer.settings import Settings

if TYPE_CHECKING:
    from producer.manifest import Wanted
    from producer.publisher import Receipt
    from schemas.models import DeadLetter, Transcript


def publish(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="PATH|URI...", help="Files, folders (searched), addresses.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A manifest: one event a line, `uri` required; - is stdin.")
    ] = None,
    event_id: Annotated[str | None, typer.Option(help="The event's id, for one recording; absent: random.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose recordings these are.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language, as in en or de-CH.")] = None,
    critical: Annotated[bool, typer.Option("--critical", help="Serve these first.")] = False,
    defer: Annotated[bool, typer.Option("--defer", help="These may wait for a cheap hour.")] = False,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", help="Useless after so long.")] = None,
    reference: Annotated[str | None, typer.Option(help="What is really said, to measure word errors.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Copied to the transcript; repeatable.")
    ] = None,
    no_digest: Annotated[bool, typer.Option("--no-digest", help="Do not hash files here; the service will.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Print transcripts as they come.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long --wait waits.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Publish audio events for recordings; with --wait, print what was heard (exit code 1 if any could not be)."""
    from producer.manifest import Wanted

    if not sources and jsonl is None:
        raise typer.BadParameter("name files, folders, addresses, or a manifest with --jsonl")
    fields = {
        "event_id": event_id,
        "tenant": tenant,
        "language": language,
        "critical": critical or None,
        "defer": defer or None,
        "deadline_seconds": deadline,
        "reference_text": reference,
        "metadata": _pairs(metadata) or None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    wanted = [Wanted(item.source, {**given, **item.fields}) for item in wanted_of(sources or [], jsonl)]
    if event_id is not None and len(wanted) > 1:
        raise typer.BadParameter(f"one id cannot name {len(wanted)} recordings", param_hint="--event-id")
    from consumer.telemetry.export import exporting

    show = _Show(as_json, len(wanted))
    with show, exporting("earwitness-publish"):
        asyncio.run(_publish(settings_of(ctx), wanted, show, not no_digest, timeout if wait else None))
    show.conclude()


def wanted_of(sources: list[str], jsonl: Path | None) -> Iterator["Wanted"]:
    """What is named on the command line, then the manifest's."""
    from producer.errors import ManifestError
    from producer.manifest import Wanted, read_manifest
    from producer.walk import recordings

    yield from map(Wanted, recordings(sources))
    if jsonl is None:
        return
    if str(jsonl) == "-":
        yield from read_manifest(sys.stdin.buffer, "stdin")
        return
    try:
        with jsonl.open("rb") as lines:
            yield from read_manifest(lines, str(jsonl))
    except OSError as error:
        raise ManifestError(f"{jsonl}: {error.strerror}") from error


async def _publish(
    settings: Settings, wanted: list["Wanted"], show: "_Show", hash_files: bool, wait_seconds: float | None
) -> None:
    from consumer.kafka.client import connection
    from producer.batch import publish_all, publish_and_wait
    from producer.publisher import Publisher
    from producer.results import Results

    where = {**connection(settings), "topic_prefix": settings.topic_prefix}
    publisher = Publisher(hash_files=hash_files, max_event_bytes=settings.max_event_bytes, **where)
    if wait_seconds is None:
        async with publisher:
            await publish_all(publisher, wanted, on_receipt=show.receipt)
        return
    async with Results(**where) as results, publisher:
        await publish_and_wait(
            publisher,
            results,
            wanted,
            timeout_seconds=wait_seconds,
            on_receipt=show.receipt,
            on_outcome=show.outcome,
        )


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or []]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise typer.BadParameter(f"{bad[0]!r} is not NAME=VALUE", param_hint="--metadata")
    return {name: value for name, _, value in pairs}


class _Show:
    """Says what happens: results on stdout, a progress bar on stderr if somebody watches."""

    def __init__(self, as_json: bool, total: int) -> None:
        self._as_json = as_json
        self._total = total
        self._uris: dict[str | None, str] = {}
        self._published = self._heard = self._dead = 0
        self._stack = ExitStack()
        self._advance: Any = None

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            progress = self._stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            task = progress.add_task("publishing", total=self._total)
            self._advance = lambda: progress.advance(task)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def receipt(self, receipt: "Receipt") -> None:
        """An event is on its topic."""
        self._published += 1
        self._uris[receipt.event_id] = receipt.event.uri
        if self._advance is not None:
            self._advance()
        place = {"topic": receipt.topic, "partition": receipt.partition, "offset": receipt.offset}
        named = {"event_id": receipt.event_id, "uri": receipt.event.uri, "sha256": receipt.event.sha256}
        text = f"published  {receipt.event_id}  {receipt.event.uri}"
        self._say(text, {"published": {**named, **place}})

    def outcome(self, outcome: "Transcript | DeadLetter") -> None:
        """An event has its transcript or its dead letter."""
        uri = self._uris.get(outcome.event_id, "")
        data = outcome.model_dump(mode="json")
        if "reason" in data:
            self._dead += 1
            text = f"dead       {outcome.event_id}  {uri}\n           {data['reason']}: {data['detail']}"
            self._say(text, {"dead_letter": data})
        else:
            self._heard += 1
            text = f"heard      {outcome.event_id}  {uri}\n           {data['text']}"
            self._say(text, {"transcript": data})

    def conclude(self) -> None:
        """Sum up; raises EarwitnessError if there were dead letters."""
        summary = f"{self._published} published"
        if self._heard or self._dead:
            summary += f", {self._heard} heard, {self._dead} dead letters"
        if self._dead:
            raise EarwitnessError(summary)
        print(summary, file=sys.stderr)

    def _say(self, text: str, data: dict[str, Any]) -> None:
        print(json.dumps(data, ensure_ascii=False) if self._as_json else text, flush=True)
