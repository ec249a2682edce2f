"""The HTTP port, asked over real HTTP: who may look, what is ready when, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from compose.kafka_probe import free_ports
from consumer.engines.breakers import new_breaker
from consumer.errors import ServiceError
from consumer.settings import Settings
from consumer.status.server import listening
from consumer.status.vitals import Vitals
from consumer.status.watching import watched
from consumer.telemetry.loop_monitor import LoopMonitor

TIMEOUT_SECONDS = 30.0
OPEN = ("/livez", "/readyz")
GUARDED = ("/", "/page.css", "/page.js", "/icon.svg", "/metrics", "/version", "/events")


@asynccontextmanager
async def looking(**chosen: object) -> AsyncIterator[tuple[Vitals, httpx2.AsyncClient]]:
    settings = Settings(http_port=free_ports(1)[0], **chosen)  # type: ignore[arg-type]
    async with watched(settings, LoopMonitor()) as vitals:
        address = f"http://127.0.0.1:{settings.http_port}"
        async with httpx2.AsyncClient(base_url=address, timeout=TIMEOUT_SECONDS) as client:
            yield vitals, client


async def test_it_lives_before_it_is_ready() -> None:
    async with looking() as (_, client):
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "starting\n")


async def test_prometheus_gets_its_format() -> None:
    async with looking() as (_, client):
        plain = await client.get("/metrics")
        modern = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert "\nearwitness_ready 0.0\n" in plain.text
    assert "target_info{" in plain.text
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_every_breaker_is_shown() -> None:
    breakers = {side: new_breaker(Settings(), probe_lease_seconds=1.0) for side in ("primary", "refine")}
    breakers["refine"].trip("out of credit", 0.0)
    async with looking() as (vitals, client):
        vitals.breakers_are(breakers)
        metrics = (await client.get("/metrics")).text
        shown = (await _first_snapshot(client))["breakers"]
    assert shown == [{"side": "primary", "state": "closed"}, {"side": "refine", "state": "open"}]
    assert 'earwitness_breaker_state{earwitness_breaker_state="open",earwitness_engine_side="refine"} 1.0' in metrics
    assert 'earwitness_breaker_state{earwitness_breaker_state="open",earwitness_engine_side="primary"} 0.0' in metrics


async def test_the_version_says_what_runs() -> None:
    async with looking() as (_, client):
        told = (await client.get("/version")).json()
    assert told["name"] == "earwitness"
    assert told["schema_version"] == 1


@pytest.mark.parametrize("path", GUARDED[:-1])
async def test_the_page_may_load_from_here_alone(path: str) -> None:
    async with looking() as (_, client):
        answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in answer.text.replace("http://www.w3.org/", "")
    assert "https://" not in answer.text


async def _first_snapshot(client: httpx2.AsyncClient, **more: object) -> dict[str, object]:
    async with client.stream("GET", "/events", **more) as stream:  # type: ignore[arg-type]
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                found: dict[str, object] = json.loads(line.removeprefix("data: "))
                return found
    raise AssertionError("the stream ended without a snapshot")


async def test_events_are_snapshots_of_the_service() -> None:
    async with looking(group_id="g") as (_, client):
        found = await _first_snapshot(client)
    assert (found["state"], found["group_id"], found["lanes"], found["engine"]) == ("starting", "g", [], None)


@pytest.mark.parametrize("path", OPEN)
async def test_a_supervisor_needs_no_token(path: str) -> None:
    async with looking(http_token="secret") as (_, client):
        assert (await client.get(path)).status_code in (200, 503)


@pytest.mark.parametrize("path", GUARDED)
async def test_all_else_needs_the_token_if_there_is_one(path: str) -> None:
    async with looking(http_token="secret") as (_, client):
        for header in ("", "Bearer wrong", "Bearer", "Basic !", "Basic eDp5", "Digest secret", "Bearer secret2"):
            refused = await client.get(path, headers={"authorization": header} if header else {})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="earwitness"')
            assert "secret" not in refused.text


async def test_the_token_opens_as_bearer_and_as_a_browsers_password() -> None:
    async with looking(http_token="geheim ü") as (_, client):
        bearer = {"authorization": "Bearer geheim ü".encode()}
        assert (await client.get("/version", headers=bearer)).status_code == 200  # type: ignore[arg-type]
        assert (await client.get("/version", auth=("anybody", "geheim ü"))).status_code == 200


async def test_looking_only_looks() -> None:
    async with looking() as (_, client):
        for path in ("/", "/metrics", "/livez"):
            assert (await client.post(path)).status_code == 405
        assert (await client.get("/nowhere")).status_code == 404


async def test_the_end_does_not_wait_for_those_who_look() -> None:
    ended = asyncio.Event()

    async def look(client: httpx2.AsyncClient, seen: asyncio.Event) -> None:
        async with client.stream("GET", "/events") as stream:
            async for _ in stream.aiter_lines():
                seen.set()
        ended.set()

    async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as tasks:
        settings = Settings(http_port=free_ports(1)[0])
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=TIMEOUT_SECONDS)
        async with client:
            async with watched(settings, LoopMonitor()):
                seen = asyncio.Event()
                tasks.create_task(look(client, seen))
                await seen.wait()
            await ended.wait()


async def test_more_pages_than_there_is_room_for_do_not_crowd_out_who_asks_whether_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consumer.status.app._STREAMS_AT_MOST", 1)
    async with asyncio.timeout(TIMEOUT_SECONDS), looking() as (_, client):

        async def status() -> int:
            async with client.stream("GET", "/events") as stream:
                return stream.status_code

        async with client.stream("GET", "/events") as first:
            await anext(first.aiter_lines())
            assert await status() == 503
            assert (await client.get("/livez")).status_code == 200
        while await status() == 503:  # until the server has seen that the first one is gone
            pass


async def test_asking_for_the_head_of_the_events_ends() -> None:
    async with looking() as (_, client):
        first, second = await client.head("/events"), await client.get("/livez")
    assert first.headers["content-type"].startswith("text/event-stream")
    assert second.status_code == 200


async def test_a_port_that_is_taken_is_said_and_not_waited_for() -> None:
    async with looking() as (vitals, _):
        again = Settings(http_port=vitals.settings.http_port)
        with pytest.raises(ServiceError, match=r"cannot listen on 127\.0\.0\.1 port"):
            async with watched(again, LoopMonitor()):
                raise AssertionError("it listens twice")


async def test_a_body_that_fails_ends_the_port_too() -> None:
    port = free_ports(1)[0]
    stopping = asyncio.Event()

    async def nothing(scope: object, receive: object, send: object) -> None:
        """Never asked."""

    with pytest.raises(ExceptionGroup) as raised:
        async with listening(nothing, "127.0.0.1", port, stopping):
            raise ServiceError("the engine is gone")
    assert raised.group_contains(ServiceError)
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_without_a_port_and_an_endpoint_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    async with watched(Settings(), LoopMonitor()) as vitals:
        assert vitals.measures is None


async def test_a_port_beyond_the_loopback_without_a_token_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with looking(http_host="0.0.0.0"):  # noqa: S104 (what the warning is about)
        pass
    assert "http_is_open" in caplog.text
