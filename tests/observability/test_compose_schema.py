"""The compose file against the Compose specification's own schema, which comes with the specification's Go library."""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.unit.test_compose_files import COMPOSE

pytestmark = pytest.mark.observability

LIBRARY = "github.com/compose-spec/compose-go/v2@v2.9.1"


@pytest.fixture(scope="module")
def specification() -> Draft7Validator:
    """The schema's validator; skips the test where Go cannot fetch it."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go, which fetches the Compose specification")
    command = [go, "mod", "download", "-json", LIBRARY]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
    if ran.returncode != 0:
        pytest.skip(f"Go could not fetch {LIBRARY}: {ran.stdout.strip()[-300:]} {ran.stderr.strip()[-300:]}")
    folder = Path(json.loads(ran.stdout)["Dir"])
    return Draft7Validator(json.loads((folder / "schema" / "compose-spec.json").read_text(encoding="utf-8")))


def _faults(specification: Draft7Validator, compose: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in specification.iter_errors(compose)]


def test_the_compose_file_keeps_to_the_specification(specification: Draft7Validator) -> None:
    assert _faults(specification, COMPOSE) == []


def test_the_specification_would_refuse_what_it_does_not_know(specification: Draft7Validator) -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["grafana"]["helthcheck"] = wrong["services"]["grafana"].pop("healthcheck")
    (fault,) = _faults(specification, wrong)
    assert "helthcheck" in fault
