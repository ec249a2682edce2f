"""The command line: what it prints, and how it ends."""

import gc
import json
import logging
import math
import subprocess
import sys
import tomllib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from consumer.cli.serve import run
from consumer.settings import PREFIX, Settings
from tests.support.cli import Earwitness


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # what --config sets is undone afterwards
    monkeypatch.setenv(f"{PREFIX}CONFIG", "")
    return tmp_path


@pytest.fixture
def earwitness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Earwitness:
    return Earwitness(monkeypatch, capsys)


def test_a_command_in_the_tests_own_process_leaves_its_logging_as_it_was(earwitness: Earwitness) -> None:
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    before = (root.level, list(root.handlers), client.level, list(client.handlers))

    assert earwitness("--set", "log_level=ERROR", "transcribe", "--engine", "simulated", "gone.wav") == 1

    assert (root.level, list(root.handlers), client.level, list(client.handlers)) == before


def test_every_setting_is_printed_with_its_source_as_a_file_that_loads_again(
    earwitness: Earwitness, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}GROUP_ID", "mine")
    (empty_folder / "given.toml").write_text("partitions = 3\n", encoding="utf-8")

    assert earwitness("--config", "given.toml", "--set", "fetch_allow=file:///a/,file:///b/", "config") == 0

    assert 'group_id = "mine"  # environment' in earwitness.out
    assert "partitions = 3  # given.toml" in earwitness.out
    assert 'fetch_allow = ["file:///a/", "file:///b/"]  # flag' in earwitness.out
    assert 'topic_prefix = "audio"  # default' in earwitness.out
    printed = tomllib.loads(earwitness.out)
    assert printed.keys() <= Settings.model_fields.keys()
    assert Settings(**printed) == Settings(group_id="mine", partitions=3, fetch_allow=["file:///a/", "file:///b/"])


def test_a_secret_is_never_printed(earwitness: Earwitness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}KAFKA_SASL_PASSWORD", "hunter2")

    for arguments in (["config"], ["config", "--json"]):
        assert earwitness(*arguments) == 0
        assert "hunter2" not in earwitness.out + earwitness.err
        assert "***" in earwitness.out


def test_the_settings_are_also_there_for_programs(earwitness: Earwitness) -> None:
    assert earwitness("--set", "PARTITIONS=5", "config", "--json", "--changed") == 0

    (row,) = json.loads(earwitness.out)
    assert (row["name"], row["variable"], row["value"], row["default"], row["source"]) == (
        "partitions",
        "EARWITNESS_PARTITIONS",
        5,
        12,
        "flag",
    )
    assert row["meaning"]


def test_a_variable_that_is_no_setting_is_pointed_out(earwitness: Earwitness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PARTITONS", "3")

    assert earwitness("config") == 0

    assert "EARWITNESS_PARTITONS is no setting; did you mean 'partitions'?" in earwitness.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "partitons=3", "config"], "did you mean 'partitions'?"),
        (["--set", "partitions", "config"], "is not NAME=VALUE"),
        (["--set", "partitions=many", "config"], "partitions: Input should be a valid integer"),
        (
            ["--set", "kafka_bootstrap_servers=host:abc", "serve"],
            "kafka_bootstrap_servers: 'host:abc' is not host:port",
        ),
        (["--set", "heartbeat_interval_ms=9000", "config"], "settings: heartbeat_interval_ms (9000) is more than"),
        (["--config", "gone.toml", "config"], "does not exist"),
        (["publish"], "name files, folders"),
        (["publish", "--metadata", "x", "a.wav"], "is not NAME=VALUE"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    earwitness: Earwitness, arguments: list[str], said: str
) -> None:
    assert earwitness(*arguments) == 2
    assert said in " ".join(earwitness.err.replace("│", " ").split())


def test_a_broken_file_is_wrong_usage_too(earwitness: Earwitness, empty_folder: Path) -> None:
    (empty_folder / "broken.toml").write_text("partitions = = 3\n", encoding="utf-8")

    assert earwitness("--config", "broken.toml", "config") == 2
    assert "broken.toml" in earwitness.err


@pytest.mark.parametrize("arguments", [["topics", "check"], ["topics", "create"], ["publish", "https://a.example/b"]])
def test_no_broker_ends_with_1_and_one_clear_line(earwitness: Earwitness, arguments: list[str]) -> None:
    assert earwitness("--set", "kafka_bootstrap_servers=127.0.0.1:9", *arguments) == 1

    lines = [line for line in earwitness.err.splitlines() if line.startswith("earwitness:")]
    assert len(lines) == 1
    assert "no Kafka broker answers at 127.0.0.1:9" in lines[0]
    assert "Traceback" not in earwitness.err


def test_serving_says_once_what_is_probably_not_meant_so(
    earwitness: Earwitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}FETCH_ALOW", "file:///data/")

    assert earwitness("--set", "kafka_bootstrap_servers=127.0.0.1:9", "serve") == 1

    warned = [json.loads(line) for line in earwitness.err.splitlines() if line.startswith("{")]
    said = [line["message"] for line in warned if line["logger"] == "consumer.cli.serve"]
    assert [line.split()[0] for line in said] == ["unknown_setting", "nothing_may_be_fetched"]
    assert "EARWITNESS_FETCH_ALOW is no setting; did you mean 'fetch_allow'?" in said[0]

    monkeypatch.delenv(f"{PREFIX}FETCH_ALOW")
    earwitness("--set", "kafka_bootstrap_servers=127.0.0.1:9", "--set", "fetch_allow=file:///data/", "serve")
    assert "consumer.cli.serve" not in earwitness.err


def test_serving_has_the_garbage_collector_look_at_little_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    spared, usual = list[int](), gc.get_threshold()

    def ran(work: Coroutine[Any, Any, None]) -> None:
        spared.append(gc.get_freeze_count())
        assert math.prod(gc.get_threshold()) >= 1_000 * math.prod(usual)
        work.close()

    async def service() -> None: ...

    monkeypatch.setattr(uvloop, "run", ran)
    run(service())
    assert spared[0] > 10_000
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == usual


def test_what_cannot_be_published_ends_with_1_and_its_name(earwitness: Earwitness, empty_folder: Path) -> None:
    (empty_folder / "empty").mkdir()
    (empty_folder / "events.jsonl").write_text('{"uri": "https://a.example/b"}\n{"uri": 7}\n', encoding="utf-8")

    assert earwitness("publish", "gone.wav") == 1
    assert "gone.wav: no such file or folder" in earwitness.err
    assert earwitness("publish", "empty") == 1
    assert "empty: no recordings in this folder" in earwitness.err
    assert earwitness("publish", "--jsonl", "events.jsonl") == 1
    assert "events.jsonl:2: not an object with a `uri`" in earwitness.err


def test_the_command_line_loads_no_model_library_before_it_needs_one() -> None:
    program = (
        "import sys\nfrom consumer.cli import app\n"
        "heavy = {'torch', 'transformers', 'faster_whisper', 'openai', 'librosa', 'opentelemetry.sdk', 'av'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["publish"],
        ["topics", "create"],
        ["topics", "check"],
        ["config"],
        ["watch-metrics"],
        ["summary"],
        ["report"],
    ],
)
def test_every_command_has_help(earwitness: Earwitness, command: list[str]) -> None:
    assert earwitness(*command, "--help") == 0
    assert "Usage: earwitness" in earwitness.out
