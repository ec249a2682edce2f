"""Recordings to words on this machine, for the commands that need no Kafka."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from consumer.cli.context import settings_of
from consumer.errors import EarwitnessError, EventError, ReasonedError

if TYPE_CHECKING:
    from consumer.audio.recordings import Recordings
    from consumer.core.model import Heard
    from consumer.engines.hybrid import HybridEngine
    from consumer.settings import Settings
    from schemas.codes import Route


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recording that is to be heard."""

    name: str
    """As it was asked for, and as it is shown."""
    uri: str
    language: str | None = None
    """None: the settings' own."""


class Listener(Protocol):
    """Whom the results are told, by their places among those wanted."""

    def heard(self, place: int, digest: str, heard: "Heard", route: "Route") -> None: ...

    def failed(self, place: int, error: ReasonedError) -> None: ...


def wanted(source: str, language: str | None = None) -> Wanted:
    """A file or an address; nothing is looked at yet."""
    from producer.walk import is_address

    # not resolve(): the place that was named is the place that is shown
    uri = source if is_address(source) else Path(os.path.abspath(source)).as_uri()  # noqa: PTH100
    return Wanted(source, uri, language)


def settings_to_hear(
    ctx: typer.Context, recordings: Sequence[Wanted], engine: str | None, model: str | None, **more: Any
) -> "Settings":
    """The configured settings with this engine and model, which may read all of these recordings; quiet by default."""
    configured = settings_of(ctx, engine=engine)
    named = "api_model" if configured.engine == "openai" else "model"
    allowed = [one.uri for one in recordings if _is_plain(one.uri)]
    chosen = {named: model, "engine": engine, "fetch_allow": [*configured.fetch_allow, *allowed], **more}
    if "log_level" not in configured.model_fields_set:
        chosen["log_level"] = "WARNING"
    return settings_of(ctx, **chosen)


def hear(settings: "Settings", recordings: Sequence[Wanted], places: Sequence[int], listener: Listener) -> None:
    """Hear the recordings at these places; raises what the service would not live through."""
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    with tempfile.TemporaryDirectory(prefix="earwitness-") as folder:
        # before anything is loaded: a mistyped name is told in no time
        there = [place for place in places if not _is_missing(recordings[place].uri, place, listener)]
        if there:
            settings = settings.model_copy(update={"state_dir": Path(folder)})
            asyncio.run(_hear_all(settings, recordings, there, listener))


def _is_plain(uri: str) -> bool:
    """Whether it can be allowed; an address that cannot is refused with its reason like any other."""
    from consumer.audio.allow import parse

    try:
        parse(uri)
    except EventError:
        return False
    return True


def _is_missing(uri: str, place: int, listener: Listener) -> bool:
    """Whether this is a local file that is not there, which is then told."""
    from consumer.audio.allow import parse
    from schemas.codes import Reason

    if not _is_plain(uri) or (address := parse(uri)).scheme != "file" or Path(address.path).exists():
        return False
    listener.failed(place, EventError(Reason.NOT_FOUND, f"{address.shown} does not exist"))
    return True


async def _hear_all(
    settings: "Settings", recordings: Sequence[Wanted], places: Sequence[int], listener: Listener
) -> None:
    from consumer.service import hearing

    room = asyncio.Semaphore(settings.lane_in_flight)
    async with hearing(settings) as (opened, engine), asyncio.TaskGroup() as tasks:

        async def one(place: int) -> None:
            found = recordings[place]
            async with room:
                try:
                    result = await _hear(opened, engine, f"{place}", found.uri, found.language or settings.language)
                except ReasonedError as error:
                    listener.failed(place, error)
                except EarwitnessError:
                    raise
                except Exception as error:
                    logging.getLogger(__name__).exception("unexpected_error at %s", found.name)
                    listener.failed(place, _unexpected(error))
                else:
                    listener.heard(place, *result)

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
