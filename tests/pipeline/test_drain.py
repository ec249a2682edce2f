"""SIGTERM finishes what was begun; a second one stops at once; nothing is lost or repeated either way."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from consumer.settings import Settings
from tests.audio.web import Web, answer, web_server
from tests.support.kafka import Broker, Written
from tests.support.scenario import (
    Clip,
    event,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until,
    until_settled,
)
from tests.support.service import ServiceProcess, serving

pytestmark = pytest.mark.kafka

EVENTS = 8


@asynccontextmanager
async def _recordings(folder: Path) -> AsyncIterator[tuple[Web, list[Clip], list[Written]]]:
    """Recordings on the web, so that one sees when each is taken, and their events, each in its own partition."""
    async with web_server() as web:
        clips = [make_clip(folder, number) for number in range(EVENTS)]
        urls = [web.add(f"/{n}", answer(200, clip.path.read_bytes())) for n, clip in enumerate(clips)]
        events = [
            Written(event(f"e{n}", urls[n], sha256=clip.digest), partition=clip.partition)
            for n, clip in enumerate(clips)
        ]
        yield web, clips, events


async def _begin(settings: Settings, web: Web, service: ServiceProcess, events: list[Written]) -> None:
    """Publish, and wait until the service works on every one of them."""
    await service.until_log("lane_open", 4)
    await publish(settings, *events)
    await until(lambda: len(web.asked) == EVENTS, "every recording is fetched")


async def test_a_drain_finishes_what_was_begun_and_a_restart_repeats_nothing(kafka: Broker, tmp_path: Path) -> None:
    async with _recordings(tmp_path) as (web, clips, events):
        settings = settings_for(
            kafka.bootstrap_servers,
            tmp_path,
            fetch_allow=[f"{web.origin}/"],
            simulated_realtime_factor=0.1,  # a second each
            simulated_concurrency=EVENTS,
        )
        await create(settings)
        async with serving(settings) as service:
            await _begin(settings, web, service, events)
            assert await service.stop() == 0, "\n".join(service.lines)
            assert service.said("draining") == 1
        drained = await asyncio.to_thread(outcomes, settings)
        async with serving(settings) as service:
            await service.until_log("lane_open", 4)
            nowhere = f"{web.origin}/nowhere"  # a hit needs no fetch
            again = [Written(event(f"again-{n}", nowhere, sha256=clip.digest)) for n, clip in enumerate(clips)]
            await publish(settings, *again)
            await until_settled(settings, 2 * EVENTS, service)
            assert await service.stop() == 0
    assert sorted(record.key or "" for record in drained.transcripts) == sorted(f"e{n}" for n in range(EVENTS))
    assert (drained.recognitions, len(drained.metrics)) == (EVENTS, EVENTS)
    found = await asyncio.to_thread(outcomes, settings)
    assert (len(found.transcripts), found.recognitions, len(found.metrics)) == (2 * EVENTS, EVENTS, 2 * EVENTS)


async def test_a_second_signal_stops_at_once_and_a_restart_serves_what_was_left(kafka: Broker, tmp_path: Path) -> None:
    async with _recordings(tmp_path) as (web, clips, events):
        settings = settings_for(kafka.bootstrap_servers, tmp_path, fetch_allow=[f"{web.origin}/"])
        await create(settings)
        async with serving(settings, EARWITNESS_SIMULATED_REALTIME_FACTOR="0.0001") as service:
            await _begin(settings, web, service, events)
            service.process.send_signal(signal.SIGTERM)
            await service.until_log("draining")
            service.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await service.ended() == 1
            assert service.lines[-1].startswith("earwitness: a second signal stopped it at once")
            assert service.said("Traceback") == 0, "\n".join(service.lines)
        assert (await asyncio.to_thread(outcomes, settings)).metrics == []
        async with serving(settings) as service:
            await until_settled(settings, EVENTS, service)
            assert await service.stop() == 0
    found = await asyncio.to_thread(outcomes, settings)
    texts = {record.key: record.json["text"] for record in found.transcripts}
    assert texts == {f"e{number}": clip.text for number, clip in enumerate(clips)}
    assert (len(found.transcripts), found.recognitions, len(found.metrics)) == (EVENTS, EVENTS, EVENTS)
