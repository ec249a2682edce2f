import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import RecordingError, TransientError
from consumer.workers import supervisor as module
from consumer.workers.supervisor import Supervisor, back_off_seconds
from consumer.workers.worker import WorkerDiedError
from schemas.codes import Reason


@pytest.fixture(autouse=True)
def _quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_BASE_SECONDS", 0.01)


def supervisor(init: dict[str, Any] | None = None, **more: Any) -> Supervisor:
    return Supervisor("tests.support.scripted_child", init or {}, name="scripted", start_timeout_seconds=60.0, **more)


async def ask(supervisor: Supervisor, do: str, timeout_seconds: float = 60.0, **more: Any) -> dict[str, Any]:
    answer, _ = await supervisor.request({"do": do, **more}, timeout_seconds=timeout_seconds)
    return answer


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 (a state of another process, which no event here tells of)
            await asyncio.sleep(0.005)


@given(failures=st.integers(1, 10_000), share=st.floats(0, 1))
def test_back_off_grows_by_jitter_and_stays_below_its_cap(failures: int, share: float) -> None:
    assert back_off_seconds(1, share) == 0, "it had served: nothing speaks against another"
    assert 0 <= back_off_seconds(failures, share) <= module.BACK_OFF_CAP_SECONDS
    assert back_off_seconds(failures + 1, share) >= back_off_seconds(failures, share)


async def test_a_child_that_crashed_is_back_for_the_next_request() -> None:
    async with supervisor() as child:
        first = (await ask(child, "echo"))["pid"]
        with pytest.raises(WorkerDiedError, match="SIGSEGV"):
            await ask(child, "segfault")
        second = (await ask(child, "echo"))["pid"]
        assert first != second
        assert (await child.ready())["pid"] == second
        assert (child.state, child.restarts) == ("ready", 1)


async def test_a_child_that_dies_idle_is_brought_back_without_being_asked() -> None:
    async with supervisor() as child:
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1 and child.state == "ready")
        assert child.pid not in (None, first)


async def test_while_restarts_fail_requests_are_told_so_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with supervisor({"fail_if": str(broken)}) as child:
        broken.touch()
        with pytest.raises(WorkerDiedError):
            await ask(child, "exit")
        with pytest.raises(TransientError, match="told to fail") as told:
            await ask(child, "echo")
        assert told.value.reason is Reason.ENGINE_FAILED
        assert told.value.retry_after_seconds is not None
        broken.unlink()
        await until(lambda: child.state == "ready")
        assert await ask(child, "echo")


async def test_a_first_start_that_fails_raises_the_childs_own_reason_and_leaves_nothing() -> None:
    child = supervisor({"fail": True})
    with pytest.raises(RecordingError, match="told to fail"):
        await child.start()
    assert child.state == "stopped"
    assert child.pid is None


async def test_requests_go_one_at_a_time_in_order() -> None:
    async with supervisor() as child:
        answers = await asyncio.gather(*(ask(child, "echo", say=number) for number in range(20)))
        assert [answer["said"] for answer in answers] == list(range(20))


async def test_a_child_is_replaced_after_its_share_of_requests() -> None:
    async with supervisor(max_requests=2) as child:
        pids = [(await ask(child, "echo"))["pid"] for _ in range(5)]
        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


async def test_a_child_that_grew_too_large_is_replaced_and_a_small_one_is_not() -> None:
    async with supervisor({"ballast_bytes": 64 * 1024 * 1024}, max_rss_bytes=60 * 1024 * 1024) as child:
        assert (await ask(child, "echo"))["pid"] != (await ask(child, "echo"))["pid"]
    async with supervisor(max_rss_bytes=1024**3) as child:
        assert (await ask(child, "echo"))["pid"] == (await ask(child, "echo"))["pid"]


MEGABYTE = 1024 * 1024


async def leaked(child: Supervisor, megabytes: int) -> int:
    """Have it leak until a successor has taken over; the successor's pid."""
    first = child.pid
    async with asyncio.timeout(60):
        while child.pid == first:
            await ask(child, "leak", leak_bytes=megabytes * MEGABYTE)
    assert child.pid is not None
    return child.pid


async def test_a_child_that_leaks_serves_until_its_successor_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_REPLIES", 3)
    async with supervisor(max_rss_growth_bytes=40 * MEGABYTE) as child:
        first = child.pid
        states = []
        async with asyncio.timeout(60):
            while child.pid == first:
                await ask(child, "leak", leak_bytes=MEGABYTE)
                states.append(child.state)
        assert set(states) == {"ready"}, "somebody had to wait for it"
        assert len(states) > 40, "it was replaced before it had grown"
        assert child.restarts == 1
        await until(lambda: not Path(f"/proc/{first}").exists())


async def test_where_memory_is_short_the_leaking_child_ends_before_its_successor_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WARM_REPLIES", 3)
    monkeypatch.setattr(module, "available_bytes", lambda: 0)
    async with supervisor(max_rss_growth_bytes=20 * MEGABYTE, in_flight=2) as child:
        first = child.pid
        asks = [asyncio.create_task(ask(child, "leak", leak_bytes=MEGABYTE)) for _ in range(60)]
        pids = [(await one)["pid"] for one in asks]
        assert pids[0] == first
        assert len(set(pids)) >= 2, "nothing was lost, and it was replaced"
        assert not Path(f"/proc/{first}").exists()


async def test_a_child_of_steady_size_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_REPLIES", 3)
    async with supervisor(max_rss_growth_bytes=20 * MEGABYTE) as child:
        assert len({(await ask(child, "echo"))["pid"] for _ in range(30)}) == 1


async def test_a_successor_that_cannot_start_leaves_the_old_child_in_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "WARM_REPLIES", 3)
    broken = tmp_path / "broken"
    async with supervisor({"fail_if": str(broken)}, max_rss_growth_bytes=20 * MEGABYTE) as child:
        first = child.pid
        broken.touch()
        async with asyncio.timeout(60):
            while child.restarts == 0:
                assert (await ask(child, "leak", leak_bytes=2 * MEGABYTE))["pid"] == first
        assert (await ask(child, "echo"))["pid"] == first
        broken.unlink()
        assert await leaked(child, 2) != first


async def test_health_is_the_last_good_answer_and_a_refusal_counts_as_one() -> None:
    async with supervisor() as child:
        assert child.last_reply_at is None
        with pytest.raises(RecordingError):
            await ask(child, "recording_error")
        refused = child.last_reply_at
        assert refused is not None
        with pytest.raises(TransientError):
            await ask(child, "fault")
        assert child.last_reply_at == refused


async def test_stopping_resolves_requests_under_way_and_refuses_new_ones() -> None:
    child = supervisor()
    await child.start()
    asked = [asyncio.create_task(ask(child, "wait_for_file", path="/nowhere/at/all")) for _ in range(3)]
    await asyncio.sleep(0)
    await child.stop()
    results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert all(isinstance(result, TransientError) for result in results)
    assert child.state == "stopped"
    with pytest.raises(TransientError, match="told to stop"):
        await ask(child, "echo")
    await child.stop()


async def test_stopping_does_not_wait_for_a_restart_under_way(tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    child = supervisor({"hang_if": str(hanging)})
    await child.start()
    hanging.touch()
    with pytest.raises(WorkerDiedError):
        await ask(child, "exit")
    waiting = asyncio.create_task(ask(child, "echo"))
    await until(lambda: child.state == "starting")
    await asyncio.wait_for(child.stop(), 10)
    with pytest.raises(TransientError):
        await waiting
