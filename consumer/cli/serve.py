"""``earwitness serve``: the service."""

import logging

import typer

from consumer.cli.context import settings_of, unknown_variables
from consumer.settings import Settings

log = logging.getLogger(__name__)


def serve(ctx: typer.Context) -> None:
    """Serve: audio events in, transcripts out, until SIGTERM or Ctrl-C; ends with 0 after a drain."""
    settings = settings_of(ctx)
    import uvloop

    from consumer import service
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    _warn(settings)
    uvloop.run(service.serve(settings))


def _warn(settings: Settings) -> None:
    """Say what is probably not meant so, and would only show later."""
    for unknown in unknown_variables():
        log.warning("unknown_setting %s", unknown)
    if not settings.fetch_allow:
        log.warning(
            "nothing_may_be_fetched fetch_allow is empty: every event becomes a dead letter (uri_not_allowed); "
            "set it to address prefixes such as file:///data/"
        )
