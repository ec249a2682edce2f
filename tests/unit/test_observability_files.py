"""The collector's, Prometheus's and Grafana's files: each valid, fitting the others, and asking for what is there."""

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support.observability import FOLDER, dashboard, expressions, panels, read_yaml, rules
from tests.support.promql import exported, metrics_in
from tests.unit.test_compose_files import COMPOSE, SERVICES, SERVING

OF_PROMETHEUS = {"up"}
ALERT_TESTS = Path(__file__).with_name("alerts_test.yml")


def promtool(*arguments: object) -> None:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("no promtool: apt-get install prometheus")
    ran = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_prometheus_takes_its_configuration_and_its_rules() -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_the_alerts_are_raised_when_they_should_be_and_not_before() -> None:
    promtool("test", "rules", ALERT_TESTS)


def test_an_expression_names_its_metrics() -> None:
    found = metrics_in('sum by (le, x) (rate(a_total{b="c", d!="by (e)"}[5m])) / f offset 5m > 1.5e3 and on (g) h:i')
    assert found == {"a_total", "f", "h:i"}


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_that_a_rule_or_a_panel_names_is_one_that_the_service_exports(where: str, expression: str) -> None:
    names = metrics_in(expression)
    assert names, where
    assert names - OF_PROMETHEUS <= exported()


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in rules())
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning", "info"}


def test_every_job_is_a_service_here_at_a_port_that_it_listens_on() -> None:
    jobs = {job["job_name"]: job for job in read_yaml("prometheus.yml")["scrape_configs"]}
    (found,) = jobs["earwitness"]["dns_sd_configs"]
    for name in SERVING:
        assert SERVICES[name]["environment"]["EARWITNESS_HTTP_PORT"] == str(found["port"])
        assert SERVICES[name]["environment"]["EARWITNESS_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 (in its network)
        assert found["names"][0] in (name, *SERVICES[name].get("networks", {}).get("default", {}).get("aliases", []))
    (collector,) = jobs["collector"]["static_configs"]
    (reader,) = read_yaml("collector.yaml")["service"]["telemetry"]["metrics"]["readers"]
    assert collector["targets"] == [f"collector:{reader['pull']['exporter']['prometheus']['port']}"]
    asked_for = {job for rule in rules() for job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert asked_for == {"earwitness", "collector"}
    assert asked_for <= jobs.keys()


def test_spans_find_their_way_from_each_process_to_the_collector_and_on_to_jaeger() -> None:
    collector = read_yaml("collector.yaml")
    listening = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    for name in (*SERVING, "publisher"):
        environment = SERVICES[name]["environment"]
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{listening}"
        assert environment["OTEL_METRICS_EXPORTER"] == "none", "Prometheus would have them twice"
    (pipeline,) = collector["service"]["pipelines"].values()
    (exporter,) = pipeline["exporters"]
    assert collector["exporters"][exporter]["endpoint"].partition(":")[0] in SERVICES


def test_the_collector_that_is_built_has_the_parts_and_the_version_of_the_one_that_is_pulled() -> None:
    builder, collector = read_yaml("builder.yaml"), read_yaml("collector.yaml")
    version = SERVICES["collector"]["image"].rpartition(":")[2]
    for kind in ("receivers", "processors", "exporters"):
        modules = [part["gomod"] for part in builder[kind]]
        assert all(module.endswith(f" v{version}") for module in modules)
        built = {module.split()[0].rpartition("/")[2] for module in modules}
        wanted = {name.partition("/")[0].removesuffix("_grpc").replace("_", "") for name in collector[kind]}
        assert {f"{name}{kind.removesuffix('s')}" for name in wanted} <= built


def test_the_collector_refuses_before_its_container_ends() -> None:
    limit = read_yaml("collector.yaml")["processors"]["memory_limiter"]["limit_mib"]
    assert limit < int(SERVICES["collector"]["deploy"]["resources"]["limits"]["memory"].removesuffix("m"))


def test_grafana_finds_its_sources_and_its_dashboard() -> None:
    sources = read_yaml("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    for source in sources:
        host, _, port = source["url"].removeprefix("http://").partition(":")
        assert any(mapping.endswith(f":{port}") for mapping in SERVICES[host]["ports"])
    (provider,) = read_yaml("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    folder = provider["options"]["path"]
    grafana = SERVICES["grafana"]
    assert f"./observability/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/earwitness.json"
    known = {source["uid"]: source["type"] for source in sources}
    used = [part["datasource"] for panel in panels() for part in (panel, *panel["targets"])]
    assert all(known[one["uid"]] == one["type"] for one in used)


def test_the_panels_lie_side_by_side_and_say_what_they_show() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert all(panel["description"] for panel in panels())
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)
    places = [panel["gridPos"] for panel in everything]
    assert not [(one, other) for one, other in combinations(places, 2) if _overlap(one, other)]


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_the_links_lead_to_ports_that_are_open_here() -> None:
    opened = {port.split(":")[1] for service in COMPOSE["services"].values() for port in service.get("ports", [])}
    for link in dashboard()["links"]:
        assert link["url"].removeprefix("http://localhost:").partition("/")[0] in opened
