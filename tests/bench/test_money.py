"""The figures about money, small: a real service, a real broker, scripted sellers with books of their own."""

import json
from pathlib import Path

import pytest

from tests.bench import cost, routing, storm
from tests.support.kafka import Broker

pytestmark = pytest.mark.bench


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_the_ledger_is_what_the_sellers_bill_and_the_parts_make_the_price(
    kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    asked = ["--kafka", kafka.bootstrap_servers, "--engine", "simulated", "--events", "80", "--out", str(out)]
    cost.main(asked)
    found = json.loads(out.read_text())
    usd = found["per_million_minutes"]
    assert found["books_agree"]
    assert found["events"] == 80
    assert min(found["sellers_usd"].values()) > 0
    assert 0.1 < found["repeated_share"] < 0.4
    assert usd["local"] + usd["api"] + usd["corrections"] == pytest.approx(usd["this_policy_usd"])
    assert usd["all_local_usd"] == pytest.approx(0.10 / 60 / 14.7 * 1e6 * (1 - found["repeated_share"]))
    assert "agree to the micro-dollar" in capsys.readouterr().out


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_in_a_small_storm_no_rule_breaks(kafka: Broker, tmp_path: Path) -> None:
    out = tmp_path / "storm.json"
    asked = ["--kafka", kafka.bootstrap_servers, "--events", "150", "--seconds", "12", "--kills", "1"]
    storm.main([*asked, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["kills"] == 1
    assert all(count > 0 for count in found["answers"].values())


def test_a_decision_is_measured_with_and_without_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "routing.json"
    routing.main(["--decisions", "500", "--out", str(out)])
    rows = json.loads(out.read_text())
    assert all(rows[f"{count} rules"]["choice_seconds"] > 0 for count in routing.RULES)
    assert capsys.readouterr().out.count("all routing") == len(routing.RULES)
