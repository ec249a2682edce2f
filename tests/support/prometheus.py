"""A real Prometheus, with the rules of ``compose/observability`` and its scrape configuration on free ports."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from compose.kafka_probe import free_ports
from tests.support.observability import FOLDER, read_yaml
from tests.support.processes import listening

_INTERVAL = "1s"


class Prometheus:
    """Asked through its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now. Raises AssertionError if it is none."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one number that an expression gives, or None."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def labels(self) -> set[str]:
        """Every label's name."""
        return set(self._ask("labels"))

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health and state."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **more: str) -> Any:
        answer = httpx2.get(f"{self._url}/{what}", params=more, timeout=30.0)
        told = answer.json()
        assert told["status"] == "success", f"{more}: {told}"
        return told["data"]


@contextmanager
def scraping(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run it; ``targets`` says by job where its ``host:port`` is here. Skips the test where it is not installed."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    (port,) = free_ports(1)
    config = read_yaml("prometheus.yml")
    config["global"] = {"scrape_interval": _INTERVAL, "scrape_timeout": _INTERVAL, "evaluation_interval": _INTERVAL}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [{"prometheus": f"127.0.0.1:{port}", **targets}[job["job_name"]]]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    options = [f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with listening([binary, *options, f"--web.listen-address=127.0.0.1:{port}"], folder / "prometheus.log", port):
        yield Prometheus(f"http://127.0.0.1:{port}")
