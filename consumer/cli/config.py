"""``earwitness config``: every setting, its value, and where that came from."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.cli.context import settings_of, sources, unknown_variables
from consumer.settings import PREFIX, Settings

MASK = "***"


def config(
    ctx: typer.Context,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Print every setting with its value, its source and its meaning, as a TOML file."""
    settings, came_from = settings_of(ctx), sources(ctx)
    names = [name for name in Settings.model_fields if not changed or came_from[name] != "default"]
    if as_json:
        print(json.dumps([_row(settings, name, came_from[name]) for name in names], indent=2))
    else:
        print("\n".join(_lines(settings, name, came_from[name]) for name in names))
    for warning in unknown_variables():
        typer.echo(f"warning: {warning}", err=True)


def _lines(settings: Settings, name: str, source: str) -> str:
    row = _row(settings, name, source)
    meaning = " ".join(row["meaning"].split())
    # no value and no secret can be said in TOML: a comment keeps the file loadable
    silent = "# " if row["value"] in (None, MASK) else ""
    return f"# {meaning}\n{silent}{name} = {json.dumps(row['value'], ensure_ascii=False)}  # {source}"


def _row(settings: Settings, name: str, source: str) -> dict[str, Any]:
    field = Settings.model_fields[name]
    value = _plain(getattr(settings, name))
    return {
        "name": name,
        "variable": f"{PREFIX}{name.upper()}",
        "value": MASK if value is not None and not field.repr else value,
        "source": source,
        "default": _plain(field.get_default(call_default_factory=True)),
        "meaning": field.description or "",
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
