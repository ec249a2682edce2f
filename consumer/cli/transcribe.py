"""``earwitness transcribe``: recordings to words on this machine, without Kafka."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote_to_bytes, urlsplit

import typer

from consumer.cli.hearing import Wanted, hear, settings_to_hear, wanted
from consumer.core.shown import encodable
from consumer.errors import EarwitnessError, ReasonedError

if TYPE_CHECKING:
    from consumer.core.model import Heard
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
    found = list(_wanted(sources))
    if form is Format.SRT and output_dir is None and len(found) > 1:
        raise typer.BadParameter(
            "subtitles of several recordings need a folder: --output-dir DIR", param_hint="--format"
        )
    show = _Show(form, output_dir, found)
    timed = {"word_times": True} if form is Format.SRT else {}
    settings = settings_to_hear(ctx, found, engine, model, language=language, **timed)
    with show:
        hear(settings, found, range(len(found)), show)
    show.conclude()


def _wanted(sources: Sequence[str]) -> Iterator[Wanted]:
    from producer.walk import recordings

    for source in sources:
        yield from map(wanted, recordings([source]) if Path(source).is_dir() else [source])


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

    def __init__(self, form: Format, output_dir: Path | None, recordings: list[Wanted]) -> None:
        self._form = form
        self._names = [encodable(one.name) for one in recordings]
        self._uris = [one.uri for one in recordings]
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
