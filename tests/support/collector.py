"""A real OpenTelemetry Collector, built once from ``compose/observability/builder.yaml`` and kept."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.kafka_probe import free_ports
from tests.support.observability import read_yaml
from tests.support.processes import listening

TOOLS = Path(__file__).parents[2] / ".earwitness" / "tools"
_BUILDER = "go.opentelemetry.io/collector/cmd/builder"
_BUILD_SECONDS = 800.0
_HEADING = re.compile(r"^(?:.*ResourceSpans|ScopeSpans|Span) #\d+$", re.MULTILINE)
_FIELD = re.compile(r"^ {4}(Trace ID|Parent ID|ID|Name|Kind|Status code) +: ?(.*)$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^ {5}-> ([\w.]+): \w+\((.*)\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as the collector's debug exporter prints it."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    status: str
    attributes: dict[str, str]


@dataclass(slots=True)
class Collector:
    """One that runs, or ran: then what it saw can be read."""

    otlp_url: str
    metrics_target: str
    log: Path
    spans: list[SeenSpan] = field(default_factory=list)


def built() -> Path:
    """The binary, made in two minutes if it is not there yet; skips the test where Go cannot fetch the builder."""
    manifest = read_yaml("builder.yaml")
    manifest["dist"]["output_path"] = str(TOOLS / "collector")
    text = yaml.safe_dump(manifest)
    binary, made_of = TOOLS / "collector" / str(manifest["dist"]["name"]), TOOLS / "collector.yaml"
    if binary.exists() and made_of.exists() and made_of.read_text(encoding="utf-8") == text:
        return binary
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go, which builds the OpenTelemetry Collector")
    TOOLS.mkdir(parents=True, exist_ok=True)
    made_of.unlink(missing_ok=True)
    version = manifest["receivers"][0]["gomod"].split()[1]
    fetched = _run([go, "install", f"{_BUILDER}@{version}"], GOBIN=str(TOOLS))
    if fetched.returncode != 0:
        pytest.skip(f"Go could not install {_BUILDER}@{version}: {fetched.stderr.strip()[-300:]}")
    wanted = TOOLS / "wanted.yaml"
    wanted.write_text(text, encoding="utf-8")
    ran = _run([str(TOOLS / "builder"), "--config", str(wanted)])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    wanted.replace(made_of)
    return binary


def validate(binary: Path, config: Path) -> str:
    """What the collector says against a configuration; nothing if it would run with it."""
    ran = _run([str(binary), "validate", "--config", str(config)])
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr or f"exit code {ran.returncode}"


@contextmanager
def collecting(binary: Path, folder: Path) -> Iterator[Collector]:
    """Run it with ``collector.yaml``, on free ports, and with its debug exporter in Jaeger's place."""
    grpc, http, metrics = free_ports(3)
    config: dict[str, Any] = read_yaml("collector.yaml")
    protocols = config["receivers"]["otlp"]["protocols"]
    protocols["grpc"]["endpoint"], protocols["http"]["endpoint"] = f"127.0.0.1:{grpc}", f"127.0.0.1:{http}"
    config["exporters"] = {"debug": {"verbosity": "detailed"}}
    config["service"]["pipelines"]["traces"]["exporters"] = ["debug"]
    (reader,) = config["service"]["telemetry"]["metrics"]["readers"]
    reader["pull"]["exporter"]["prometheus"].update(host="127.0.0.1", port=metrics)
    path = folder / "collector.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    found = Collector(f"http://127.0.0.1:{http}", f"127.0.0.1:{metrics}", folder / "collector.log")
    with listening([str(binary), "--config", str(path)], found.log, http):
        yield found
    found.spans = _spans(found.log.read_text(encoding="utf-8"))


def _spans(log: str) -> list[SeenSpan]:
    return [_span(part) for part in _HEADING.split(log) if "    Trace ID " in part]


def _span(text: str) -> SeenSpan:
    fields = dict(_FIELD.findall(text))
    return SeenSpan(
        trace_id=fields["Trace ID"],
        span_id=fields["ID"],
        parent_id=fields["Parent ID"],
        name=fields["Name"],
        kind=fields["Kind"],
        status=fields["Status code"],
        attributes=dict(_ATTRIBUTE.findall(text)),
    )


def _run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS
    )
