"""With its own model dead, the service goes on through the API, within the API's limits, and says so."""

import asyncio
import hashlib
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from consumer.settings import Settings
from schemas.codes import Route
from tests.support.audio_files import write_audio
from tests.support.kafka import Broker, Written
from tests.support.leftovers import child_processes
from tests.support.scenario import (
    Clip,
    Outcomes,
    event,
    outcomes,
    publish,
    settings_for,
    until_settled,
)
from tests.support.scripted_api import Call, ScriptedApi
from tests.support.service import ServiceProcess, serving
from tests.support.tiny_ctc import babble, build

pytestmark = pytest.mark.kafka

EVENTS = 12
AT_ONCE = 3


@dataclass
class Run:
    """What came out, and what the API saw."""

    found: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))
    calls: list[Call] = field(default_factory=list)
    open_peak: int = 0


def _clip(folder: Path, number: int) -> Clip:
    path = write_audio(folder / f"babble-{number}.wav", babble(1.0, seed=number), 16_000)
    return Clip(path, hashlib.sha256(path.read_bytes()).hexdigest(), 1.0)


def _engine_child(service: ServiceProcess) -> int:
    (found,) = [
        pid
        for pid in child_processes(service.process.pid)
        if b"consumer.workers.engine_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


async def _run(kafka: Broker, folder: Path) -> Run:
    model = build(folder / "model", "group")
    clips = [_clip(folder, number) for number in range(EVENTS + 2)]
    settings: Settings = settings_for(
        kafka.bootstrap_servers,
        folder,
        engine="ctc",
        model=str(model),
        devices=["cpu"],
        engine_threads=1,
        fallback="openai",
        critical_route="api",
        api_concurrency=AT_ONCE,
        breaker_failures=2,
        breaker_reset_seconds=600.0,
    )
    await create(settings)
    run = Run()
    async with ScriptedApi() as api:
        environment = {"OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": "x"}
        async with serving(settings, **environment) as service:
            await service.until_log("lane_open", 4)
            await publish(
                settings,
                Written(event("local", clips[-1].uri)),
                Written(event("critical", clips[-2].uri, critical=True)),
            )
            await until_settled(settings, 2, service)
            shutil.rmtree(model)  # its child can die, and not come back
            os.kill(_engine_child(service), signal.SIGKILL)
            await publish(settings, *(Written(event(f"e{n}", clips[n].uri)) for n in range(EVENTS)))
            await until_settled(settings, 2 + EVENTS, service)
            assert await service.stop() == 0, "\n".join(service.lines)
        run.calls, run.open_peak = api.calls, api.open_peak
    run.found = await asyncio.to_thread(outcomes, settings)
    return run


@pytest.fixture(scope="module")
def run(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real (tiny) CTC model whose child is killed and cannot start again, and an API behind it."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("fallback")))


def test_a_healthy_service_answers_from_its_own_model(run: Run) -> None:
    transcript = run.found.transcript("local").json
    assert (transcript["route"], transcript["engine"]["name"]) == (Route.LOCAL, "ctc")


def test_critical_events_go_to_the_api_by_policy(run: Run) -> None:
    transcript = run.found.transcript("critical").json
    assert (transcript["route"], transcript["engine"]["name"]) == (Route.POLICY, "openai")
    assert transcript["cost_usd"] > 0
    assert run.found.metric("critical")["critical"]


def test_with_its_model_dead_every_event_still_comes_out_once_through_the_api(run: Run) -> None:
    transcripts = [run.found.transcript(f"e{number}").json for number in range(EVENTS)]
    assert {transcript["route"] for transcript in transcripts} == {Route.BREAKER_OPEN}
    assert all(transcript["text"].startswith("heard 1.00 seconds") for transcript in transcripts)
    assert len(run.found.metrics) == len(run.found.transcripts) == EVENTS + 2
    assert run.found.dead_letters == []


def test_each_outcome_says_which_engines_were_left_alone(run: Run) -> None:
    assert {tuple(run.found.metric(f"e{number}")["breakers_open"]) for number in range(EVENTS)} == {("primary",)}
    assert run.found.metric("local")["breakers_open"] == []


def test_the_api_is_paid_once_for_each_recording(run: Run) -> None:
    assert len(run.calls) == EVENTS + 1  # and the critical one
    costs = [run.found.metric(f"e{number}")["cost_usd"] for number in range(EVENTS)]
    assert costs == pytest.approx([0.0045 / 60] * EVENTS)


def test_the_api_never_sees_more_requests_at_once_than_allowed(run: Run) -> None:
    assert run.open_peak <= AT_ONCE


def test_failed_tries_of_the_dead_model_stand_in_the_ledger(run: Run) -> None:
    lines = [attempt for number in range(EVENTS) for attempt in run.found.metric(f"e{number}")["attempts"]]
    assert sum(line["engine"] == "openai" and line["outcome"] == "ok" for line in lines) == EVENTS
    assert sum(line["engine"] == "ctc" and line["outcome"] == "engine_failed" for line in lines) >= 2
