"""The price of telemetry, small: the service as a child, since the bench stops it as anybody does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.kafka]


@pytest.mark.timeout(620)
def test_telemetry_is_clocked_in_a_service_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "price.json"
    asked = ["--minutes", "0.4", "--sampled", "0.5", "--out", str(out)]
    command = [sys.executable, "-m", "tests.bench.telemetry_price", *asked]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(out.read_text())
    assert found["rounds"] > 0
    in_place = found["microseconds_in_place"]
    assert in_place["off"] < in_place["metrics"] < in_place["metrics and 50% traced"]
    assert found["price"]["metrics"]["in place"] > 0
