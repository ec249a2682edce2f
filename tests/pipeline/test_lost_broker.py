"""The only broker dies and comes back: the service says so, waits, and goes on by itself."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from compose.local_kafka import LocalKafka
from consumer.kafka.topics import create
from tests.support.kafka import Written
from tests.support.scenario import event, make_clip, outcomes, publish, settings_for, until_settled
from tests.support.service import serving

pytestmark = [pytest.mark.kafka, pytest.mark.patient]

EVENTS, CLIPS = 60, 20
LINES_AT_MOST = 40
"""For an outage of some seconds: each of four lanes, the consumer and the client may say it a few times."""


@pytest.mark.timeout(120)
async def test_a_lost_broker_is_said_but_not_shouted_and_the_service_goes_on_by_itself(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        settings = settings_for(
            kafka.bootstrap_servers,
            tmp_path,
            simulated_realtime_factor=0.5,  # 0.2 s each, on two slots: the outage falls into the work
            simulated_concurrency=2,
            transaction_timeout_ms=1500,
        )
        clips = [make_clip(tmp_path, number) for number in range(CLIPS)]
        await create(settings)
        async with serving(settings) as service:
            await service.until_log("lane_open", 4)
            await publish(settings, *(Written(event(f"e{n}", clips[n % CLIPS].uri)) for n in range(EVENTS)))
            await until_settled(settings, 5, service)
            before = len(service.lines)
            await asyncio.to_thread(kafka.kill)
            await service.until_log("commit_in_doubt", 1)
            await asyncio.to_thread(kafka.start)
            await until_settled(settings, EVENTS, service)
            said = service.lines[before:]
            assert await service.stop() == 0, "\n".join(service.lines)
        found = await asyncio.to_thread(outcomes, settings)
        await asyncio.to_thread(kafka.stop, gently=False)
    assert len(said) <= LINES_AT_MOST, "\n".join(said)
    assert max(Counter(line.split(" ", 1)[1] for line in said).values()) <= 10
    assert sorted(record.key or "" for record in found.transcripts) == sorted(f"e{n}" for n in range(EVENTS))
    assert sorted(record.key or "" for record in found.metrics) == sorted(f"e{n}" for n in range(EVENTS))
    assert found.recognitions == CLIPS
