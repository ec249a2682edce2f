"""Events finish in any order: a long recording holds up nobody, and a crash repeats nothing that was settled."""

import asyncio
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from tests.support.kafka import Broker, Written
from tests.support.scenario import clip_in_partition, event, outcomes, publish, settings_for, until_settled
from tests.support.service import serving

pytestmark = pytest.mark.kafka

SHORT = 20


@pytest.mark.timeout(120)
async def test_what_was_settled_behind_a_long_recording_stays_settled_through_a_crash(
    kafka: Broker, tmp_path: Path
) -> None:
    settings = settings_for(kafka.bootstrap_servers, tmp_path, session_timeout_ms=2000, heartbeat_interval_ms=500)
    long_one = clip_in_partition(tmp_path, 1, seconds=60.0)
    short_ones = [clip_in_partition(tmp_path, 1, start=1000 * number) for number in range(1, SHORT + 1)]
    await create(settings)
    async with serving(settings, EARWITNESS_SIMULATED_REALTIME_FACTOR="0.5") as service:
        await service.until_log("lane_open", 4)
        events = [Written(event(f"short-{n}", clip.uri), partition=1) for n, clip in enumerate(short_ones)]
        await publish(settings, Written(event("long", long_one.uri), partition=1), *events)
        await until_settled(settings, SHORT, service)
        before = await asyncio.to_thread(outcomes, settings)
        await service.kill()
    assert {record.key for record in before.transcripts} == {f"short-{number}" for number in range(SHORT)}
    async with serving(settings) as service:
        await until_settled(settings, SHORT + 1, service)
        assert await service.stop() == 0
    found = await asyncio.to_thread(outcomes, settings)
    assert len(found.transcripts) == len(found.metrics) == SHORT + 1
    assert found.transcript("long").json["text"] == long_one.text
    assert found.recognitions == SHORT + 1
