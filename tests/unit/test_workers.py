import asyncio
import io
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import EventError, RecordingError, TransientError
from consumer.workers.channel import ChannelError, pack, read_frame, write_frame
from consumer.workers.worker import Worker, WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

CHILD = "tests.support.scripted_child"
PATIENCE_SECONDS = 60.0


@asynccontextmanager
async def running(in_flight: int = 1, **init: Any) -> AsyncIterator[Worker]:
    worker = Worker(CHILD, init, name="scripted", start_timeout_seconds=PATIENCE_SECONDS, in_flight=in_flight)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def ask(worker: Worker, do: str, payload: bytes = b"", timeout_seconds: float = 60.0, **more: Any) -> Any:
    return await worker.request({"do": do, **more}, payload, timeout_seconds=timeout_seconds)


def test_a_frame_survives_the_pipe() -> None:
    pipe = io.BytesIO()
    write_frame(pipe, {"a": 1}, b"\0payload")
    write_frame(pipe, {}, b"")
    pipe.seek(0)
    assert read_frame(pipe) == ({"a": 1}, b"\0payload")
    assert read_frame(pipe) == ({}, b"")
    assert read_frame(pipe) is None


@pytest.mark.parametrize(
    "wire",
    [b"hello, I am a library", b"EWf1\xff\xff\xff\xff" + b"\xff" * 8, b"".join(pack({"a": 1}))[:-1], b"EW"],
    ids=["print", "above the bounds", "cut", "cut mark"],
)
def test_what_is_not_a_frame_is_refused(wire: bytes) -> None:
    with pytest.raises(ChannelError):
        read_frame(io.BytesIO(wire))


async def test_a_child_answers_with_header_and_payload() -> None:
    async with running() as worker:
        payload = os.urandom(3_000_000)
        answer, back = await ask(worker, "echo", payload, say={"nested": [1, None]})
        assert answer == {"pid": worker.pid, "said": {"nested": [1, None]}}
        assert back == payload


async def test_what_libraries_print_does_not_reach_the_channel_and_lands_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        async with running() as worker:
            assert await ask(worker, "print") == ({}, b"")
            assert (await ask(worker, "echo", say=1))[0]["said"] == 1
    said = [record.getMessage() for record in caplog.records]
    assert any("a library prints" in line for line in said)
    assert any("so does C" in line for line in said)
    assert max(map(len, said)) < 2100


async def test_errors_of_the_handler_arrive_as_what_they_were() -> None:
    async with running() as worker:
        with pytest.raises(RecordingError, match="torn") as recording:
            await ask(worker, "recording_error")
        with pytest.raises(EventError, match="no Welsh") as event:
            await ask(worker, "event_error")
        with pytest.raises(TransientError) as transient:
            await ask(worker, "transient_error")
        with pytest.raises(WorkerFaultError, match="ZeroDivisionError: seven by nothing") as fault:
            await ask(worker, "fault")
        assert await ask(worker, "echo")  # none of them ended the child
    assert recording.value.reason is Reason.CORRUPT_AUDIO
    assert not event.value.retriable
    assert transient.value.retry_after_seconds == 3.5
    assert fault.value.fault == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("do", "how"), [("segfault", "SIGSEGV"), ("exit", "exit code 7"), ("garbage", "broke the protocol")]
)
async def test_a_child_that_ends_says_how_and_is_reaped(do: str, how: str) -> None:
    async with running() as worker:
        pid = worker.pid
        with pytest.raises(WorkerDiedError, match=how) as died:
            await ask(worker, do)
        assert not died.value.timed_out
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(WorkerDiedError, match=how):
            await ask(worker, "echo")
        await worker.start()
        assert worker.generation == 2
        assert await ask(worker, "echo")


async def test_a_child_that_hangs_is_killed_when_its_time_is_over() -> None:
    async with running() as worker:
        pid = worker.pid
        with pytest.raises(WorkerDiedError, match=r"no answer within 0\.2 s") as died:
            await ask(worker, "sleep", seconds=3600, timeout_seconds=0.2)
        assert died.value.timed_out
        assert not Path(f"/proc/{pid}").exists()


async def test_the_answer_to_a_cancelled_request_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async with running() as worker:
        gate = tmp_path / "gate"
        first = asyncio.create_task(ask(worker, "wait_for_file", path=str(gate)))
        second = asyncio.create_task(ask(worker, "echo", say="second"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.touch()
        answer, _ = await second
        assert answer["said"] == "second"


async def test_stopping_resolves_every_request_that_waits() -> None:
    async with running() as worker:
        asked = [asyncio.create_task(ask(worker, "sleep", seconds=3600)) for _ in range(3)]
        await asyncio.sleep(0)
        worker.kill()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(result, WorkerDiedError) for result in results)


async def until_there(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not path.exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.005)


async def test_the_next_request_is_made_ready_while_this_one_is_answered(tmp_path: Path) -> None:
    gate, prepared = tmp_path / "gate", tmp_path / "prepared"
    async with running(in_flight=2) as worker:
        first = asyncio.create_task(ask(worker, "wait_for_file", path=str(gate)))
        second = asyncio.create_task(ask(worker, "echo", b"payload", say="second", prepared=str(prepared)))
        await until_there(prepared)
        assert not first.done()
        gate.touch()
        await first
        answer, payload = await second
        assert (answer["said"], payload) == ("second", b"payload")


async def test_a_request_whose_preparation_failed_is_answered_so_in_its_turn(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(in_flight=3) as worker:
        first = asyncio.create_task(ask(worker, "wait_for_file", path=str(gate)))
        bad = asyncio.create_task(ask(worker, "echo", unprepared=True))
        good = asyncio.create_task(ask(worker, "echo", say="good"))
        await asyncio.sleep(0)
        gate.touch()
        assert await first == ({}, b"")
        with pytest.raises(WorkerFaultError, match="nothing to prepare"):
            await bad
        assert (await good)[0]["said"] == "good"


async def test_a_child_that_leaves_over_a_preparation_leaves_when_its_turn_comes(tmp_path: Path) -> None:
    gate, prepared = tmp_path / "gate", tmp_path / "prepared"
    async with running(in_flight=2) as worker:
        first = asyncio.create_task(ask(worker, "wait_for_file", path=str(gate)))
        bad = asyncio.create_task(ask(worker, "echo", lost=True, prepared=str(prepared)))
        await until_there(prepared)
        gate.touch()
        assert await first == ({}, b""), "its neighbour is to blame"
        with pytest.raises(WorkerDiedError, match="exit code 9") as died:
            await bad
        assert died.value.lost_requests == 1


async def test_a_child_that_dies_takes_all_that_it_held_with_it_and_says_how_much(tmp_path: Path) -> None:
    async with running(in_flight=2) as worker:
        asked = [asyncio.create_task(ask(worker, "wait_for_file", path=str(tmp_path / "never"))) for _ in range(3)]
        await asyncio.sleep(0)
        worker.kill()
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        for lost in (first, second):
            assert isinstance(lost, WorkerDiedError)
            assert lost.lost_requests == 2
        assert isinstance(third, WorkerDiedError)


async def test_the_time_of_a_request_begins_with_its_turn() -> None:
    async with running(in_flight=2) as worker:
        first = asyncio.create_task(ask(worker, "sleep", seconds=2.5))
        second = asyncio.create_task(ask(worker, "echo", say="second", timeout_seconds=2.0))
        await first
        assert (await second)[0]["said"] == "second"


async def test_a_hung_request_is_killed_after_its_own_time_and_the_one_behind_it_is_lost_without_blame() -> None:
    async with running(in_flight=2) as worker:
        first = asyncio.create_task(ask(worker, "sleep", seconds=3600, timeout_seconds=0.2))
        second = asyncio.create_task(ask(worker, "echo", timeout_seconds=0.1))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [isinstance(result, WorkerDiedError) and result.timed_out for result in results] == [True, False]
        assert [isinstance(result, WorkerDiedError) and result.lost_requests for result in results] == [2, 2]


async def test_a_setup_that_fails_tells_why() -> None:
    worker = Worker(CHILD, {"fail": True}, name="scripted", start_timeout_seconds=PATIENCE_SECONDS)
    with pytest.raises(RecordingError, match="told to fail"):
        await worker.start()
    assert not worker.alive


async def test_a_setup_that_hangs_is_given_up() -> None:
    worker = Worker(CHILD, {"hang": True}, name="scripted", start_timeout_seconds=0.5)
    with pytest.raises(WorkerDiedError, match="killed"):
        await worker.start()
    assert not worker.alive


async def test_a_module_that_does_not_exist_is_a_death_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("tests.support.no_such", {}, name="scripted", start_timeout_seconds=PATIENCE_SECONDS)
    with pytest.raises(WorkerDiedError, match="exit code 1"):
        await worker.start()
    assert "No module named" in caplog.text


async def test_signals_meant_for_the_service_do_not_end_its_children() -> None:
    async with running() as worker:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
        assert await ask(worker, "echo")


@pytest.mark.skipif(sys.platform != "linux", reason="how the kernel is told is Linux's own")
async def test_where_memory_is_gone_the_kernel_ends_a_child_before_its_parent() -> None:
    async with running() as worker:
        score = int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text())
        assert score > int(Path("/proc/self/oom_score_adj").read_text())


PARENT = f"""
import asyncio, sys
from consumer.workers.worker import Worker

async def main():
    worker = Worker({CHILD!r}, {{}}, name="orphan", start_timeout_seconds=60)
    await worker.start()
    asked = asyncio.create_task(worker.request({{"do": "sleep", "seconds": 3600}}, timeout_seconds=3600))
    await asyncio.sleep(0.05)
    print(worker.pid, flush=True)
    await asked

asyncio.run(main())
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as process:
        yield process
        process.kill()


def test_a_child_in_the_middle_of_work_dies_with_its_parent(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    try:
        parent.kill()
        ready, _, _ = select.select([child], [], [], 10.0)
        assert ready, "the child outlived its parent by 10 s"
    finally:
        os.close(child)


async def test_a_cancellation_that_comes_as_the_child_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as worker:
        process = worker._process
        assert process is not None
        ends = process.wait

        async def wait() -> int:
            monkeypatch.undo()
            code = await ends()
            stopping.cancel()
            return code

        monkeypatch.setattr(process, "wait", wait)
        stopping = asyncio.create_task(worker.stop())
        with pytest.raises(asyncio.CancelledError):
            await stopping
