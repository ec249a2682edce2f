"""``earwitness serve``: the service."""

import gc
import logging
from collections.abc import Coroutine
from typing import Any

import typer

from consumer.cli.context import settings_of, unknown_variables
from consumer.settings import Settings

log = logging.getLogger(__name__)


def serve(ctx: typer.Context) -> None:
    """Serve: audio events in, transcripts out, until SIGTERM or Ctrl-C; ends with 0 after a drain."""
    settings = settings_of(ctx)
    from consumer import service
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    _warn(settings)
    run(service.serve(settings))


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run the service in a fresh event loop, to its end."""
    import uvloop

    # The event loop stands still while garbage is collected. What was loaded by now stays as long as the process, and
    # to look through it takes 60 ms each time. Of what comes next hardly anything is garbage that only a full
    # collection finds (2,500 objects after 15,000 events), while the words in flight may be millions of objects.
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000)
    try:
        uvloop.run(service)
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def _warn(settings: Settings) -> None:
    """Say what is probably not meant so, and would only show later."""
    for unknown in unknown_variables():
        log.warning("unknown_setting %s", unknown)
    if not settings.fetch_allow:
        log.warning(
            "nothing_may_be_fetched fetch_allow is empty: every event becomes a dead letter (uri_not_allowed); "
            "set it to address prefixes such as file:///data/"
        )
