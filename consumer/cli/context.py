"""What every command needs: the settings, with flags first, or a usage error that names what is wrong."""

import os
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from consumer.settings import PREFIX, Settings, config_file


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` flags as settings; a later one beats an earlier one."""
    chosen: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip().lower().removeprefix(PREFIX.lower()).replace("-", "_")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not NAME=VALUE", param_hint="--set")
        if name not in Settings.model_fields:
            raise typer.BadParameter(f"there is no setting {name!r}{_did_you_mean(name)}", param_hint="--set")
        chosen[name] = value
    return chosen


def settings_of(ctx: typer.Context, **flags: object) -> Settings:
    """The settings with the global flags and this command's own (those that are not None) in front."""
    chosen = {**(ctx.find_root().obj or {}), **{name: value for name, value in flags.items() if value is not None}}
    named = config_file()
    if named is not None and not named.is_file():
        raise typer.BadParameter(f"{named}: no such file", param_hint=f"{PREFIX}CONFIG")
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(_faults(error)), param_hint="settings") from error
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{named}: {error}", param_hint="settings") from error
    except SettingsError as error:
        raise typer.BadParameter(str(error), param_hint="settings") from error


def sources(ctx: typer.Context) -> dict[str, str]:
    """Where each setting's value comes from: ``flag``, ``environment``, the file's path, or ``default``."""
    flags = ctx.find_root().obj or {}
    variables = {name.upper() for name in os.environ}
    file = config_file()
    in_file = tomllib.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
    return {
        name: "flag"
        if name in flags
        else "environment"
        if f"{PREFIX}{name.upper()}" in variables
        else str(file)
        if name in in_file
        else "default"
        for name in Settings.model_fields
    }


def unknown_variables() -> list[str]:
    """Variables that look like settings and are none, with what may have been meant."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}CONFIG"}
    strange = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    return [f"{name} is no setting{_did_you_mean(name.removeprefix(PREFIX).lower())}" for name in strange]


def _faults(error: ValidationError) -> list[str]:
    """What is wrong with each setting; faults between two settings name them in their own words."""
    faults = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors(include_input=False)]
    return [": ".join(filter(None, (name, said.removeprefix("Value error, ")))) for name, said in faults]


def _did_you_mean(name: str) -> str:
    close = get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
