"""The command ``earwitness``: its global flags, its commands, and how it ends.

Exit code 0: it did it; 1: it failed and says why in a line; 2: wrong usage. Commands import what is heavy when they
run, so that ``--help`` is quick.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli import (
    compare,
    config,
    cost,
    dead_letters,
    publish,
    quantize,
    serve,
    summary,
    topics,
    transcribe,
    watch_metrics,
)
from consumer.cli.context import parse_assignments
from consumer.errors import EarwitnessError
from consumer.settings import PREFIX

app = typer.Typer(
    help="Speech to text on Kafka that hears every recording exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(publish.publish)
app.command()(transcribe.transcribe)
app.command()(quantize.quantize)
app.add_typer(topics.app, name="topics")
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(cost.cost)
app.command()(compare.compare)
app.command()(watch_metrics.watch_metrics)
app.command()(summary.summary)
app.command()(summary.report)
app.command()(config.config)


@app.callback()
def _global(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file with settings.", exists=True, dir_okay=False),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting; repeatable, beats environment and file."),
    ] = None,
) -> None:
    if config_file is not None:
        os.environ[f"{PREFIX}CONFIG"] = str(config_file)
    # what the client library complains of is said once, by the error that ends the command
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    ctx.obj = parse_assignments(assignments or [])


def main() -> None:
    """Run the command line and exit."""
    try:
        app(prog_name="earwitness")
    except Exception as error:
        lines = _sayable(error)
        if lines is None:
            raise
        for line in lines:
            print(f"earwitness: {line}", file=sys.stderr)
        sys.exit(1)


def _sayable(error: BaseException) -> list[str] | None:
    """What to say of an error that was to be expected; None for one that is a bug."""
    from aiokafka.errors import KafkaError

    from producer.errors import PublishError

    if isinstance(error, BaseExceptionGroup):
        said = [_sayable(inner) for inner in error.exceptions]
        return None if None in said else sorted({line for lines in said for line in lines or ()})
    if isinstance(error, EarwitnessError | PublishError | KafkaError):
        return [str(error) or type(error).__name__]
    return None
