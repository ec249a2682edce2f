"""``earwitness watch-metrics``: alerts, from a process of their own."""

import asyncio
import signal
from contextlib import suppress

import typer

from consumer.cli.context import settings_of
from consumer.settings import Settings


def watch_metrics(ctx: typer.Context) -> None:
    """Watch the metrics topic and publish alerts until SIGTERM or Ctrl-C, taking turns with others and with `serve`."""
    settings = settings_of(ctx)
    from consumer.telemetry.logs import set_up_logs

    set_up_logs(settings)
    asyncio.run(_watch(settings))


async def _watch(settings: Settings) -> None:
    from consumer.kafka import topics
    from consumer.kafka.watch import watch

    await topics.check(settings)
    watching, loop = asyncio.ensure_future(watch(settings)), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, watching.cancel)
    with suppress(asyncio.CancelledError):
        await watching
