"""The files of ``compose/observability``, read."""

import json
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "compose" / "observability"


def read_yaml(name: str) -> Any:
    """One of the YAML files."""
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana gets it."""
    found: dict[str, Any] = json.loads((FOLDER / "grafana/dashboards/earwitness.json").read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Its panels, without the rows' titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """Prometheus's alert rules."""
    return [rule for group in read_yaml("alerts.yml")["groups"] for rule in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """Every PromQL expression, with the name of the rule or panel that it belongs to."""
    return [*((rule["alert"], rule["expr"]) for rule in rules()), *shown()]


def shown() -> list[tuple[str, str]]:
    """The expressions of the panels, with their titles."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
        for panel in panels()
        for target in panel["targets"]
    ]
