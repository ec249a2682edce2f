"""The local engine when its child is killed, dies of a chunk, fails, or cannot start."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.core.model import Wish
from consumer.engines.local import LocalEngine
from consumer.errors import RecordingError, TransientError
from schemas.codes import Reason
from tests.support import fragile_ctc, tiny_ctc
from tests.support.local_engine import hear_all, marked, recording, text, tiny_settings
from tests.support.tiny_ctc import babble


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ctc.build(tmp_path_factory.mktemp("model"), "group")


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(tiny_settings(folder), loader=fragile_ctc.FRAGILE)
    await engine.start()
    yield engine
    await engine.stop()


async def test_a_kill_in_the_middle_of_a_batch_costs_nobody_their_answer(
    engine: LocalEngine, folder: Path, tmp_path: Path
) -> None:
    recordings = [recording(tmp_path, f"r{index}", babble(1.5, index)) for index in range(3)]
    recordings.append(recording(tmp_path, "held", marked(1.5, 9, fragile_ctc.HOLDS)))
    expected = [text(outcome) for outcome in await hear_all(engine, recordings)]
    (pid,) = engine.child_pids
    gate = folder / fragile_ctc.GATE
    os.mkfifo(gate)
    task = asyncio.create_task(hear_all(engine, recordings))
    # opening returns once the child has opened its end: it is in the middle of the batch
    os.close(await asyncio.to_thread(os.open, gate, os.O_RDONLY))
    gate.unlink()
    os.kill(pid, signal.SIGKILL)
    assert [text(outcome) for outcome in await task] == expected
    assert engine.child_pids not in ([], [pid])


async def test_stopping_answers_those_whose_batch_is_in_the_child(
    engine: LocalEngine, folder: Path, tmp_path: Path
) -> None:
    gate = folder / fragile_ctc.GATE
    os.mkfifo(gate)
    held = recording(tmp_path, "held", marked(1.5, 9, fragile_ctc.HOLDS))
    in_flight = asyncio.create_task(hear_all(engine, [held]))
    os.close(await asyncio.to_thread(os.open, gate, os.O_RDONLY))
    gate.unlink()
    behind = asyncio.create_task(hear_all(engine, [recording(tmp_path, "long", babble(30.0, 1))]))
    await engine.stop()
    for outcome in [*await in_flight, *await behind]:
        assert isinstance(outcome, TransientError)
        assert [attempt.outcome for attempt in outcome.attempts] == ["engine_failed"]
    assert engine.child_pids == []


async def test_a_chunk_that_fails_the_model_is_isolated_and_its_neighbours_are_heard(
    engine: LocalEngine, tmp_path: Path
) -> None:
    recordings = [recording(tmp_path, f"r{index}", babble(1.5, index)) for index in range(5)]
    poison = recording(tmp_path, "poison", marked(1.5, 9, fragile_ctc.FAILS))
    expected = [text(outcome) for outcome in await hear_all(engine, recordings)]
    pids = engine.child_pids
    *outcomes, verdict = await hear_all(engine, [*recordings, poison])
    assert [text(outcome) for outcome in outcomes] == expected
    assert isinstance(verdict, RecordingError)
    assert verdict.reason is Reason.POISON
    assert [attempt.outcome for attempt in verdict.attempts] == ["poison"]
    assert engine.child_pids == pids, "a failed batch is no reason to lose the child"


async def test_a_chunk_that_kills_the_child_is_isolated_and_its_neighbours_are_heard(
    engine: LocalEngine, tmp_path: Path
) -> None:
    neighbour = recording(tmp_path, "neighbour", babble(1.5, 1))
    poison = recording(tmp_path, "poison", marked(1.5, 9, fragile_ctc.KILLS))
    expected = text(await engine.transcribe(neighbour, Wish()))
    outcome, verdict = await hear_all(engine, [neighbour, poison])
    assert text(outcome) == expected
    assert isinstance(verdict, RecordingError)
    assert verdict.reason is Reason.POISON
    assert "SIGSEGV" in verdict.detail


@pytest.mark.patient
async def test_a_chunk_that_eats_all_memory_is_isolated_and_its_neighbours_are_heard(
    engine: LocalEngine, tmp_path: Path
) -> None:
    neighbours = [recording(tmp_path, f"r{index}", babble(1.5, index)) for index in range(3)]
    poison = recording(tmp_path, "poison", marked(1.5, 9, fragile_ctc.EATS))
    expected = [text(outcome) for outcome in await hear_all(engine, neighbours)]
    *outcomes, verdict = await hear_all(engine, [*neighbours, poison])
    assert [text(outcome) for outcome in outcomes] == expected
    assert isinstance(verdict, RecordingError)
    assert verdict.reason is Reason.POISON


async def test_an_engine_that_cannot_load_its_model_says_so_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    engine = LocalEngine(tiny_settings(tmp_path))
    assert engine.ref.model == str(tmp_path)
    with pytest.raises(TransientError) as failure:
        await engine.start()
    assert failure.value.reason is Reason.ENGINE_FAILED
    assert engine.child_pids == []
    with pytest.raises(TransientError, match="not started"):
        await engine.transcribe(recording(tmp_path, "r", babble(1.0, 1)), Wish())
    await engine.stop()


async def test_auto_is_a_warm_child_for_each_gpu_and_all_of_them_hear(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fragile_ctc.THREE_GPUS, "1")
    settings = tiny_settings(folder).model_copy(update={"devices": ["auto"], "batch_max_chunks": 1})
    engine = LocalEngine(settings, loader=fragile_ctc.DEVICES)
    await engine.start()
    try:
        assert len(engine.child_pids) == 3
        recordings = [recording(tmp_path, f"r{index}", babble(1.5, index)) for index in range(9)]
        assert all(text(outcome) for outcome in await hear_all(engine, recordings))
    finally:
        await engine.stop()
    logs = [(folder / f"cuda:{index}.log").read_text().splitlines() for index in range(3)]
    assert [log[0] for log in logs] == ["warm [1.0, 2.0, 3.0, 4.0, 5.0]"] * 3
    assert all("heard 1" in log for log in logs)
    assert sum(len(log) - 1 for log in logs) == 9
