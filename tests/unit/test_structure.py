"""The shape of the house: who may import whom, what stays pure, how long things get, and that nothing lies unused."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codes import Reason, Route, WarningCode

ROOT = Path(__file__).parents[2]
LONGEST_MODULE = 350
LONGEST_FUNCTION = 60

LAYERS = (
    {"schemas"},
    {"consumer.quality_settings"},
    {"consumer.errors", "consumer.settings"},
    {"consumer.core"},
    {"consumer.retrying", "consumer.telemetry", "consumer.to_the_end", "consumer.turns"},
    # a lane fills its dedup slice from Kafka and owns it: the slice knows nothing of lanes
    {"consumer.workers", "consumer.dedup"},
    {"consumer.audio", "consumer.engines", "consumer.kafka", "consumer.settled"},
    {"consumer.journey"},
    # each child process is put together in a module of its own, as the service is in consumer.service
    {
        "consumer.workers.decode_child",
        "consumer.workers.engine_child",
        "consumer.workers.vad_child",
        "consumer.pipeline",
        "consumer.status",
    },
    {"consumer.service"},
    {"consumer.cli"},
)
"""From the bottom up. A unit imports itself and lower layers, never its neighbours."""

IMPURE = {
    "aiokafka", "asyncio", "av", "ctranslate2", "faster_whisper", "httpx2", "io", "librosa", "logging",
    "multiprocessing", "obstore", "openai", "os", "random", "secrets", "shutil", "socket", "soundfile", "sqlite3",
    "subprocess", "tempfile", "threading", "time", "torch", "transformers",
}  # fmt: skip
HEAVY = ("torch", "transformers", "ctranslate2", "faster_whisper", "librosa", "numba")

RESERVED: dict[str, str] = {
    "Route.REFINE": "of the contract; the route says who heard the words, and a correction is a line of the ledger",
}
"""Codes that readers of the contract know already and nothing gives yet."""


def sources() -> dict[str, Path]:
    files = (path for folder in ("schemas", "producer", "consumer") for path in (ROOT / folder).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = sources()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


OWN_IMPORTS = {
    name: {target for target in imported(tree) if target in MODULES and target != name} for name, tree in TREES.items()
}


def within(module: str, unit: str) -> bool:
    return module == unit or module.startswith(f"{unit}.")


def unit_of(module: str) -> str:
    """The most particular unit of LAYERS that a module belongs to."""
    units = [unit for layer in LAYERS for unit in layer if within(module, unit)]
    assert units or module == "consumer", f"{module} has no place in LAYERS"
    return max(units, key=len, default="schemas")  # the bare package holds nothing


def rank(unit: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if unit in layer)


def test_imports_point_downwards_and_neighbours_do_not_know_each_other() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in OWN_IMPORTS.items()
        if not within(name, "producer")
        for target in targets
        if not within(target, "producer")
        and unit_of(name) != unit_of(target)
        and rank(unit_of(target)) >= rank(unit_of(name))
    ]
    assert wrong == []


def test_the_producer_knows_the_contract_alone_and_only_the_command_line_knows_the_producer() -> None:
    outward = {
        target
        for name, targets in OWN_IMPORTS.items()
        if within(name, "producer")
        for target in targets
        if not within(target, "producer")
    }
    assert all(within(target, "schemas") for target in outward)
    users = {name for name, targets in OWN_IMPORTS.items() if any(within(target, "producer") for target in targets)}
    assert all(within(name, "producer") or within(name, "consumer.cli") for name in users)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = TopologicalSorter(OWN_IMPORTS)
    try:
        graph.prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "consumer.core")])
def test_the_core_does_no_input_or_output_and_has_no_clock(module: str) -> None:
    assert {name.partition(".")[0] for name in imported(TREES[module])} & IMPURE == set()
    assert "consumer.settings" not in OWN_IMPORTS[module]
    called = [node.func for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
    names = {call.id for call in called if isinstance(call, ast.Name)}
    methods = {call.attr for call in called if isinstance(call, ast.Attribute)}
    assert names & {"open", "print", "input", "utc_now"} == set()
    assert methods & {"now", "utcnow", "today", "open", "read_text", "read_bytes", "write_text", "write_bytes"} == set()


def test_modules_and_functions_stay_short() -> None:
    long = [f"{name}: {count} lines" for name in MODULES if (count := lines_of(name)) > LONGEST_MODULE]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (count := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                    long.append(f"{name}.{node.name}: {count} lines")
    assert long == []


def lines_of(module: str) -> int:
    return len(MODULES[module].read_text().splitlines())


@pytest.mark.parametrize("module", ["consumer.service", "producer"])
def test_the_process_that_talks_to_kafka_loads_no_model_library(module: str) -> None:
    script = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == []


def test_every_setting_is_used() -> None:
    used = {
        node.attr
        for name, tree in TREES.items()
        if name != "consumer.settings"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and last_name(node.value).strip("_") == "settings"
    }
    used |= {  # topic_prefix is used through the property that makes topic names of it
        node.attr
        for node in ast.walk(TREES["consumer.settings"])
        if isinstance(node, ast.Attribute) and last_name(node.value) == "self"
    }
    assert sorted(set(Settings.model_fields) - used) == []


def test_every_code_is_given_or_reserved_with_a_reason() -> None:
    given = {
        f"{node.value.id}.{node.attr}"
        for name, tree in TREES.items()
        if name != "schemas.codes"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    kinds: tuple[type[StrEnum], ...] = (Reason, Route, WarningCode)
    codes = {f"{kind.__name__}.{code.name}" for kind in kinds for code in kind}
    assert codes - given == set(RESERVED)


def last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
