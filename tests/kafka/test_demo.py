"""The demo on the session's broker, twice, as a person would run it."""

import asyncio
import os
import secrets
import sys
import tomllib
from pathlib import Path

import pytest

from consumer.settings import Settings
from tests.support.kafka import Broker, read_topic

TIMEOUT_SECONDS = 150.0


async def run_demo(data: Path, prefix: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "compose.demo", "--data", str(data), "--prefix", prefix),
        env={**os.environ, "COLUMNS": "160", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.kafka
@pytest.mark.model
@pytest.mark.timeout(400)
async def test_the_demo_serves_everything_and_a_second_run_finds_all_of_it_known(kafka: Broker, tmp_path: Path) -> None:
    prefix = f"test-demo-{secrets.token_hex(4)}"
    servers = {"EARWITNESS_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}

    # settings of the caller's own, besides the broker, do not make it another demo
    first, first_out, first_err = await run_demo(tmp_path, prefix, **servers, EARWITNESS_ENGINE="simulated")
    second, second_out, second_err = await run_demo(tmp_path, prefix, **servers)

    assert (first, first_err) == (0, ""), first_out
    assert (second, second_err) == (0, ""), second_out
    assert "13: 10 transcripts, 3 dead letters" in first_out
    assert "9; 1 from the cache, 10.0 %" in first_out
    assert "0; 10 from the cache, 100.0 %" in second_out
    for reason in ("corrupt_audio", "not_found", "invalid_json"):
        assert reason in second_out
    transcripts = await asyncio.to_thread(read_topic, kafka.bootstrap_servers, f"{prefix}.transcripts")
    metrics = await asyncio.to_thread(read_topic, kafka.bootstrap_servers, f"{prefix}.metrics")
    assert len({record.key for record in transcripts}) == len(transcripts) == 20
    assert len(metrics) == 26
    Settings(**tomllib.loads((tmp_path / "earwitness.toml").read_text(encoding="utf-8")))


@pytest.mark.kafka
async def test_a_broker_that_does_not_answer_ends_the_demo_with_one_line(tmp_path: Path) -> None:
    code, _, err = await run_demo(tmp_path, "demo", EARWITNESS_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")

    assert code == 1
    assert err.startswith("demo: ")
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err
