"""Events that may wait: heard at once by an idle engine, else parked until the cheap hours, without a metric."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codes import Header, Hold, Route
from schemas.models import utc_now
from tests.support.kafka import Broker, Read, Written, read_topic
from tests.support.scenario import (
    Clip,
    clip_in_partition,
    event,
    fresh_service,
    outcomes,
    publish,
    settings_for,
    until,
    until_settled,
)

pytestmark = pytest.mark.kafka


def _hours_far_from_now() -> str:
    start = utc_now() + timedelta(hours=10)
    return f"{start:%H:%M}-{start + timedelta(hours=2):%H:%M}"


def _parked(settings: Settings) -> list[Read]:
    records = read_topic(settings.kafka_bootstrap_servers, settings.topics.parked)
    return [record for record in records if record.value is not None]


async def test_a_deferred_event_is_heard_by_an_idle_engine_or_waits_for_the_cheap_hours(
    kafka: Broker, tmp_path: Path
) -> None:
    settings = settings_for(
        kafka.bootstrap_servers,
        tmp_path,
        off_peak_hours=_hours_far_from_now(),
        simulated_realtime_factor=0.1,  # a clip keeps the engine busy for three seconds
    )
    clips = [clip_in_partition(tmp_path, 1, start=100 * number, seconds=0.3) for number in range(3)]

    def deferred(name: str, clip: Clip, **fields: float) -> Written:
        value = event(name, clip.uri, sha256=clip.digest, defer=True, **fields)
        return Written(value, partition=clip.partition)

    async with fresh_service(settings) as service:
        await publish(settings, deferred("idle", clips[0]))
        await publish(
            settings,
            deferred("copy", clips[0]),
            deferred("busy", clips[1]),
            deferred("hurried", clips[2], deadline_seconds=3600),
        )
        await until_settled(settings, 3, service)
        parked = await until(lambda: _parked(settings), "a parked event")
    found = await asyncio.to_thread(outcomes, settings)
    assert found.transcript("idle").json["route"] == Route.OFF_PEAK
    assert found.transcript("copy").json["route"] == Route.CACHE
    assert found.transcript("hurried").json["route"] == Route.OFF_PEAK, "its deadline would not have waited"
    assert [record.json["event_id"] for record in parked] == ["busy"]
    assert parked[0].header(Header.PARKED_FOR) == Hold.OFF_PEAK.encode()
    due = datetime.fromisoformat((parked[0].header(Header.PARKED_UNTIL) or b"").decode())
    assert timedelta(hours=9) < due - utc_now() < timedelta(hours=10)
    assert len(found.metrics) == 3
