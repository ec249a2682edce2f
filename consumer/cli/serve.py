"""``earwitness serve``: the service."""

import typer

from consumer.cli.context import settings_of


def serve(ctx: typer.Context) -> None:
    """Serve: audio events in, transcripts out, until SIGTERM or Ctrl-C; ends with 0 after a drain."""
    settings = settings_of(ctx)
    import uvloop

    from consumer import service
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    uvloop.run(service.serve(settings))
