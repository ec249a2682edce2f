"""``earwitness topics``: make and check the topics."""

import asyncio
from typing import Annotated

import typer

from consumer.cli.context import settings_of

app = typer.Typer(help="Make and check the topics.", no_args_is_help=True)


@app.command()
def create(
    ctx: typer.Context,
    partitions: Annotated[int | None, typer.Option(help="Partitions of each new topic.")] = None,
    replication_factor: Annotated[int | None, typer.Option(help="Copies of each new topic.")] = None,
) -> None:
    """Make the topics that are missing, then check them all. Existing topics are not changed."""
    from consumer.kafka import topics

    settings = settings_of(ctx, partitions=partitions, replication_factor=replication_factor)
    for topic in asyncio.run(topics.create(settings)):
        print(f"{'exists ' if topic.existed else 'created'}  {topic.name}  {topic.partitions} partitions")
    asyncio.run(topics.check(settings))


@app.command()
def check(ctx: typer.Context) -> None:
    """Check that the topics are what the service needs; lists every fault and how to mend it."""
    from consumer.kafka import topics

    partitions = asyncio.run(topics.check(settings_of(ctx)))
    print(f"the topics fit: {partitions} partitions each")
