"""``earwitness transcribe``: recordings to words on this machine, without Kafka."""

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote_to_bytes, urlsplit

import typer

from consumer.cli.context import settings_of
from consumer.core.shown import encodable
from consumer.errors import EarwitnessError, EventError, ReasonedError

if TYPE_CHECKING:
    from consumer.audio.recordings import Recordings
    from consumer.core.model import Heard
    from consumer.engines.hybrid import HybridEngine
    from consumer.settings import Settings
    from schemas.codes import Route


class Format(StrEnum):
    """What is printed of each recording."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"


def transcribe(
    ctx: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="FILE|URI...", help="Files, folders (searched), addresses.")],
    form: Annotated[Format, typer.Option("--format", help="What to print; json: one object a line.")] = Format.TEXT,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a file for each recording there instead of printing.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="ctc, whisper, ctranslate2, openai or simulated.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id or local folder; for openai the API's model.")] = None,
    language: Annotated[str | None, typer.Option(help="Spoken language, as in en or de-CH.")] = None,
) -> None:
    """Transcribe recordings here and now, in the given order; exit code 1 if any of them could not be."""
    wanted = list(_uris(sources))
    if form is Format.SRT and output_dir is None and len(wanted) > 1:
        raise typer.BadParameter(
            "subtitles of several recordings need a folder: --output-dir DIR", param_hint="--format"
        )
    show = _Show(form, output_dir, wanted)
    settings = _settings(ctx, form, [uri for _, uri in wanted], engine, model, language)
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    with tempfile.TemporaryDirectory(prefix="earwitness-") as folder, show:
        # before anything is loaded: a mistyped name is told in no time
        there = [place for place, (_, uri) in enumerate(wanted) if not _is_missing(uri, place, show)]
        if there:
            asyncio.run(_transcribe(settings.model_copy(update={"state_dir": Path(folder)}), wanted, there, show))
    show.conclude()


def _uris(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What was asked for, as it is shown and as it is fetched."""
    from producer.walk import is_address, recordings

    for source in sources:
        for found in recordings([source]) if Path(source).is_dir() else [source]:
            # not resolve(): the place that was named is the place that is shown
            yield found, found if is_address(found) else Path(os.path.abspath(found)).as_uri()  # noqa: PTH100


def _settings(
    ctx: typer.Context, form: Format, uris: list[str], engine: str | None, model: str | None, language: str | None
) -> "Settings":
    configured = settings_of(ctx, engine=engine)
    named = "api_model" if configured.engine == "openai" else "model"
    chosen: dict[str, Any] = {"language": language, named: model, "engine": engine}
    chosen["fetch_allow"] = [*configured.fetch_allow, *filter(_is_plain, uris)]
    if form is Format.SRT:
        chosen["word_times"] = True
    if "log_level" not in configured.model_fields_set:
        chosen["log_level"] = "WARNING"
    return settings_of(ctx, **chosen)


def _is_plain(uri: str) -> bool:
    """Whether it can be allowed; an address that cannot is refused with its reason like any other."""
    from consumer.audio.allow import parse

    try:
        parse(uri)
    except EventError:
        return False
    return True


def _is_missing(uri: str, place: int, show: "_Show") -> bool:
    """Whether this is a local file that is not there, which is then told."""
    from consumer.audio.allow import parse
    from schemas.codes import Reason

    if not _is_plain(uri) or (address := parse(uri)).scheme != "file" or Path(address.path).exists():
        return False
    show.failed(place, EventError(Reason.NOT_FOUND, f"{address.shown} does not exist"))
    return True


async def _transcribe(settings: "Settings", wanted: list[tuple[str, str]], places: list[int], show: "_Show") -> None:
    from consumer.service import hearing

    room = asyncio.Semaphore(settings.lane_in_flight)
    async with hearing(settings) as (recordings, engine), asyncio.TaskGroup() as tasks:

        async def one(place: int) -> None:
            name, uri = wanted[place]
            async with room:
                try:
                    result = await _hear(recordings, engine, f"{place}", uri, settings.language)
                except ReasonedError as error:
                    show.failed(place, error)
                except EarwitnessError:
                    raise
                except Exception as error:
                    logging.getLogger(__name__).exception("unexpected_error at %s", name)
                    show.failed(place, _unexpected(error))
                else:
                    show.heard(place, *result)

        for place in places:
            tasks.create_task(one(place))


async def _hear(
    recordings: "Recordings", engine: "HybridEngine", origin: str, uri: str, language: str | None
) -> tuple[str, "Heard", "Route"]:
    from consumer.audio.recordings import Source
    from consumer.core.model import Wish

    recordings.check(uri)
    source, wish = Source(uri, origin), Wish(engine.language_of(Wish(language)))
    digest = await recordings.digest_of(source)
    async with recordings.samples(source, digest) as recording:
        heard, route = await engine.transcribe(recording, wish)
    return digest, heard, route


def _unexpected(error: Exception) -> EventError:
    from schemas.codes import Reason

    return EventError(Reason.POISON, f"unexpected {type(error).__name__}; the log has more")


def _targets(output_dir: Path, uris: list[str], suffix: str) -> list[Path]:
    """A file for each recording: named after it without its suffix, or with it where two would share a name."""
    names = [PurePosixPath(os.fsdecode(unquote_to_bytes(os.fsencode(urlsplit(uri).path)))) for uri in uris]
    stems = Counter(name.stem for name in names)
    targets = [output_dir / f"{name.stem if stems[name.stem] == 1 else name.name}{suffix}" for name in names]
    if len(set(targets)) < len(targets):
        [(twice, _)] = Counter(targets).most_common(1)
        raise typer.BadParameter(f"two recordings would be written to {twice}", param_hint="--output-dir")
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_file(target: Path, output: str) -> None:
    try:
        target.write_text(output, encoding="utf-8")
    except OSError as error:
        raise _unwritable(target, error) from error


def _write_stdout(output: str) -> None:
    try:
        sys.stdout.write(output)
        sys.stdout.flush()
    except OSError as error:
        # what is left in the buffer would fail once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _unwritable("standard output", error) from error


def _unwritable(what: Path | str, error: OSError) -> EarwitnessError:
    return EarwitnessError(f"{what} cannot be written: {error.strerror}")


class _Show:
    """Results in the order in which they were asked for, failures at once; a progress bar if somebody watches."""

    def __init__(self, form: Format, output_dir: Path | None, wanted: list[tuple[str, str]]) -> None:
        self._form = form
        self._names = [encodable(name) for name, _ in wanted]
        self._uris = [uri for _, uri in wanted]
        suffix = {Format.TEXT: ".txt", Format.JSON: ".json", Format.SRT: ".srt"}[form]
        self._targets = _targets(output_dir, self._uris, suffix) if output_dir is not None else None
        self._ready: dict[int, str | None] = {}
        self._next = self._failed = 0
        self._stack = ExitStack()
        self._advance: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        if self._targets:
            _make_folder(self._targets[0].parent)
        if sys.stderr.isatty() and not sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import Progress

            progress = self._stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            task = progress.add_task("transcribing", total=len(self._names))
            self._advance = lambda: progress.advance(task)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def heard(self, place: int, digest: str, heard: "Heard", route: "Route") -> None:
        """A recording's words."""
        self._settle(place, self._formed(place, digest, heard, route))

    def failed(self, place: int, error: ReasonedError) -> None:
        """A recording that cannot be served."""
        print(f"earwitness: {self._names[place]}: {error.reason}: {error.detail}", file=sys.stderr, flush=True)
        self._failed += 1
        self._settle(place, None)

    def conclude(self) -> None:
        """Raises EarwitnessError if a recording failed."""
        if self._failed:
            raise EarwitnessError(f"{self._failed} of {len(self._names)} could not be transcribed")

    def _settle(self, place: int, output: str | None) -> None:
        self._advance()
        self._ready[place] = output
        while self._next in self._ready:
            self._write(self._next, self._ready.pop(self._next))
            self._next += 1

    def _write(self, place: int, output: str | None) -> None:
        if output is None:
            return
        if self._targets is not None:
            _write_file(self._targets[place], output)
            return
        if self._form is Format.TEXT and len(self._names) > 1:
            output = f"==> {self._names[place]} <==\n{output}"
        _write_stdout(output)

    def _formed(self, place: int, digest: str, heard: "Heard", route: "Route") -> str:
        if self._form is Format.SRT:
            from consumer.core.subtitles import srt

            return srt(heard.recognised)
        if self._form is Format.TEXT:
            return f"{heard.recognised.text}\n"
        what = {"uri": encodable(self._uris[place]), "sha256": digest, **heard.recognised.model_dump(mode="json")}
        cost = {"route": route, "cost_usd": heard.cost_usd, "infer_seconds": heard.infer_seconds}
        return json.dumps({**what, **cost}, ensure_ascii=False) + "\n"
