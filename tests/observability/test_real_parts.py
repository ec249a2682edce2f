"""A real Prometheus and a real OpenTelemetry Collector, with the files of compose/, around the real service."""

import asyncio
import json
import os
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from compose.kafka_probe import free_ports
from consumer.settings import PREFIX, Settings
from tests.support.collector import SeenSpan, built, collecting, validate
from tests.support.kafka import Broker
from tests.support.observability import FOLDER, expressions, shown
from tests.support.prometheus import Prometheus, scraping
from tests.support.promql import exported
from tests.support.scenario import clip_in_partition, fresh_service, settings_for, until, until_settled

pytestmark = [pytest.mark.observability, pytest.mark.kafka, pytest.mark.timeout(900)]

FAILING = {
    "missing": ("not_found", "fetch"),
    "forbidden": ("uri_not_allowed", None),
    "empty": ("empty", "fetch"),
    "not audio": ("unsupported_format", "decode"),
    "too late": ("deadline_exceeded", None),
}
"""By event, the dead letter's reason and the stage that failed."""
EVENTS = 3 + len(FAILING)
STAGES = {"receive", "fetch", "decode", "queue", "infer", "commit"}
NOTHING_FAILS_HERE = "Failed attempts in a second"
"""The simulated engine never fails: this panel alone may be empty."""


@dataclass
class Seen:
    """What either of them has been told by the end."""

    topic: str = ""
    spans: list[SeenSpan] = field(default_factory=list)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By expression."""
    samples: set[str] = field(default_factory=set)
    """Names on ``/metrics``."""
    labels: set[str] = field(default_factory=set)
    rules: list[dict[str, Any]] = field(default_factory=list)
    events: float | None = None
    received_spans: float | None = None

    def processed(self, event_id: str) -> list[SeenSpan]:
        """The spans of an event's processing; two if it was moved to the partition of its digest."""
        return [span for span in self.spans if span.attributes.get("earwitness.event_id") == event_id]

    def below(self, process: SeenSpan) -> dict[str, SeenSpan]:
        """The spans below one, by name."""
        return {span.name: span for span in self.spans if span.parent_id == process.span_id}

    def sent(self, event_id: str) -> SeenSpan:
        """The span of its publishing."""
        (sent,) = (
            span
            for span in self.spans
            if span.name.startswith("send ") and span.attributes["messaging.message.id"] == event_id
        )
        return sent


def _events(folder: Path) -> list[dict[str, Any]]:
    clip, elsewhere = clip_in_partition(folder, 0), clip_in_partition(folder, 1, start=50)
    (folder / "empty.wav").touch()
    (folder / "noise.wav").write_bytes(bytes(range(256)) * 8)
    return [
        {"event_id": "plain", "uri": clip.uri, "sha256": clip.digest, "reference_text": clip.text},
        {"event_id": "again", "uri": clip.uri, "sha256": clip.digest},
        {"event_id": "moved", "uri": elsewhere.uri},  # its id is keyed elsewhere than its recording belongs
        {"event_id": "missing", "uri": (folder / "missing.wav").as_uri()},
        {"event_id": "forbidden", "uri": "file:///etc/hostname"},
        {"event_id": "empty", "uri": (folder / "empty.wav").as_uri()},
        {"event_id": "not audio", "uri": (folder / "noise.wav").as_uri()},
        {"event_id": "too late", "uri": clip.uri, "sha256": clip.digest, "deadline_seconds": 1e-6},
    ]


async def _publish(settings: Settings, manifest: Path, otlp_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("earwitness"), "publish", "--no-digest", "--jsonl", manifest),
        env={
            **os.environ,
            f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            f"{PREFIX}TOPIC_PREFIX": settings.topic_prefix,
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_url,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


async def _scraped(prometheus: Prometheus, job: str) -> None:
    """Wait for two scrapes that begin after now: what is there by now then has a rate."""
    scrapes = f'count_over_time(up{{job="{job}"}}[1h])'
    before = prometheus.value(scrapes) or 0.0
    await until(lambda: (prometheus.value(scrapes) or 0.0) >= before + 3, f"three scrapes of {job}")


def _ask(seen: Seen, prometheus: Prometheus, page: str) -> None:
    seen.answers = {expression: prometheus.query(expression) for _, expression in expressions()}
    seen.labels, seen.rules = prometheus.labels(), prometheus.rules()
    seen.events = prometheus.value('sum(earwitness_events_total{earwitness_outcome!="moved"})')
    told = httpx2.get(f"{page}/metrics").text
    seen.samples = set(re.findall(r"^(\w+)[{ ]", told, re.MULTILINE))


async def _look(kafka: Broker, folder: Path, binary: Path) -> Seen:
    (port,) = free_ports(1)
    settings = settings_for(
        kafka.bootstrap_servers,
        folder,
        http_port=port,
        simulated_usd_per_minute=0.006,
        budget_usd_per_day=1.0,
        tenant_budget_usd_per_day=["default=1"],
    )
    seen = Seen(topic=settings.topics.events)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, _events(folder))), encoding="utf-8")
    with ExitStack() as stack:
        collector = stack.enter_context(collecting(binary, folder))
        targets = {"earwitness": f"127.0.0.1:{port}", "collector": collector.metrics_target}
        prometheus = stack.enter_context(scraping(folder, targets))
        async with fresh_service(settings, OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp_url) as service:
            # its counters are seen at 0 before they grow, as rates need it
            await until(lambda: prometheus.query("earwitness_ready == 1"), "a first scrape")
            await _publish(settings, manifest, collector.otlp_url)
            await until_settled(settings, EVENTS, service)
            await _scraped(prometheus, "earwitness")
            await asyncio.to_thread(_ask, seen, prometheus, f"http://127.0.0.1:{port}")
        await _scraped(prometheus, "collector")
        seen.received_spans = prometheus.value('sum({__name__=~"otelcol_receiver_accepted_spans.*"})')
    seen.spans = collector.spans
    return seen


@pytest.fixture(scope="module")
def collector_binary() -> Path:
    return built()


@pytest.fixture(scope="module")
def seen(kafka: Broker, collector_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Three events on their way through everything."""
    return asyncio.run(_look(kafka, tmp_path_factory.mktemp("observed"), collector_binary))


def test_the_collector_takes_its_configuration(collector_binary: Path) -> None:
    assert validate(collector_binary, FOLDER / "collector.yaml") == ""


def test_the_collector_would_say_so_if_it_did_not(collector_binary: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "collector.yaml"
    wrong.write_text((FOLDER / "collector.yaml").read_text().replace("memory_limiter, batch", "memory_limiter, bach"))
    assert "bach" in validate(collector_binary, wrong)


def test_the_collector_has_the_whole_trace_of_an_event_from_its_publishing_on(seen: Seen) -> None:
    (process,) = seen.processed("plain")
    below = seen.below(process)
    assert below.keys() == {*STAGES, "speech_to_text simulated"}
    assert {span.trace_id for span in below.values()} == {process.trace_id}
    assert (seen.sent("plain").kind, process.kind) == ("Producer", "Consumer")


@pytest.mark.parametrize("event_id", ["plain", "again", "moved", *FAILING])
def test_each_processing_is_a_child_of_the_publishing_and_ends_with_the_commit(seen: Seen, event_id: str) -> None:
    sent = seen.sent(event_id)
    assert sent.parent_id == ""
    for process in seen.processed(event_id):
        assert (process.trace_id, process.parent_id) == (sent.trace_id, sent.span_id)
        assert seen.below(process).keys() >= {"receive", "commit"}


@pytest.mark.parametrize(("event_id", "reason", "stage"), [(name, *how) for name, how in FAILING.items()])
def test_what_failed_is_marked_where_it_failed(seen: Seen, event_id: str, reason: str, stage: str | None) -> None:
    process = seen.processed(event_id)[-1]
    assert (process.status, process.attributes["error.type"]) == ("Error", reason)
    failed = [span for span in seen.below(process).values() if span.status == "Error"]
    marked = {span.name: span.attributes["error.type"] for span in failed}
    assert marked == ({stage: reason} if stage else {})


def test_what_was_heard_before_is_not_heard_again_and_what_belongs_elsewhere_moves_once(seen: Seen) -> None:
    (again,) = seen.processed("again")
    assert not {"fetch", "infer"} & seen.below(again).keys()
    outcomes = [span.attributes["earwitness.outcome"] for span in seen.processed("moved")]
    assert sorted(outcomes) == ["moved", "transcribed"]


def test_no_span_got_lost_on_the_way(seen: Seen) -> None:
    assert len(seen.spans) == seen.received_spans


def test_prometheus_serves_the_number_of_settled_events(seen: Seen) -> None:
    assert seen.events == EVENTS


def test_prometheus_understands_every_rule_and_none_says_that_the_service_is_down(seen: Seen) -> None:
    assert {rule["name"]: rule["health"] for rule in seen.rules} == {rule["name"]: "ok" for rule in seen.rules}
    states = {rule["name"]: rule["state"] for rule in seen.rules}
    assert states["EarwitnessDown"] == states["TracesNotCollected"] == "inactive"
    assert states["EarwitnessDeadLetters"] == "firing"


def test_the_running_service_exports_the_names_that_the_files_are_checked_against(seen: Seen) -> None:
    ours = {name for name in seen.samples if name.startswith(("earwitness_", "messaging_", "gen_ai_"))}
    assert ours == exported() - {"target_info"}


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_label_that_a_rule_or_a_panel_names_is_one_that_is_set(seen: Seen, where: str, expression: str) -> None:
    named = re.findall(r"(\w+) *(?:=|!=|=~)\"", expression)
    named += [name for group in re.findall(r"\bby \(([^)]*)\)", expression) for name in group.split(", ")]
    assert set(named) <= seen.labels, where


@pytest.mark.parametrize(("title", "expression"), shown())
def test_every_panel_shows_something(seen: Seen, title: str, expression: str) -> None:
    assert seen.answers[expression] or title == NOTHING_FAILS_HERE
