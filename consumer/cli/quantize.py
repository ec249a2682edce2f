"""``earwitness quantize``: a CTC model in int8, once, so that services on CPUs load a third of the bytes."""

from pathlib import Path
from typing import Annotated

import typer

from consumer.errors import ServiceError


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or folder of a CTC model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must be empty or not exist.")],
    revision: Annotated[str | None, typer.Option(help="Commit or tag on the hub.")] = None,
) -> None:
    """Write a CTC model in int8, for CPUs; then EARWITNESS_MODEL=OUT serves it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ServiceError(f"{out} is not an empty folder; name one that is, or one that does not exist")
    from consumer.engines.ctc_quantize import write_int8

    try:
        size = write_int8(model, out, revision=revision)
    except (OSError, ValueError) as error:
        # libraries speak in paragraphs
        raise ServiceError(f"model {model}: {' '.join(str(error).split())}") from error
    print(f"{out}: {size / 1e6:.0f} MB of weights; set EARWITNESS_MODEL={out}")
