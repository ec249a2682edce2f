"""Equal recordings at the same moment: one recognition; and a failure settles whom it concerns, nobody else."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from schemas.codes import Reason
from tests.audio.web import answer, web_server
from tests.support.audio_files import speech, write_audio
from tests.support.kafka import PARTITIONS, Broker, Written
from tests.support.scenario import (
    as_instance,
    event,
    fresh_service,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until_settled,
)
from tests.support.service import serving

pytestmark = pytest.mark.kafka


async def test_equal_events_at_the_same_moment_at_two_instances_are_one_recognition(
    kafka: Broker, tmp_path: Path
) -> None:
    settings = settings_for(kafka.bootstrap_servers, tmp_path, simulated_realtime_factor=1.0)
    clip = make_clip(tmp_path, 1, seconds=1.0)  # heard for a second: all the others come meanwhile
    await create(settings)
    async with serving(as_instance(settings, "a")) as a, serving(as_instance(settings, "b")) as b:
        await asyncio.gather(a.until_log("lane_open"), b.until_log("lane_open"))
        values = [event(f"e{number}", clip.uri) for number in range(60)]
        await publish(settings, *(Written(value, partition=n % PARTITIONS) for n, value in enumerate(values)))
        await until_settled(settings, len(values), a, b)
        assert [*await asyncio.gather(a.stop(), b.stop())] == [0, 0]
    found = await asyncio.to_thread(outcomes, settings)
    assert sorted(record.key or "" for record in found.transcripts) == sorted(f"e{number}" for number in range(60))
    assert found.recognitions == 1
    assert sum(len(record.json["attempts"]) for record in found.metrics) == 1


async def test_failures_settle_whom_they_concern(kafka: Broker, tmp_path: Path) -> None:
    """Bytes at fault settle everybody at once; an address at fault only its own event."""
    good = make_clip(tmp_path, 1)
    whole = write_audio(tmp_path / "whole.flac", speech(), 16_000).read_bytes()
    bad_path = tmp_path / "half.flac"
    bad_path.write_bytes(whole[: len(whole) // 2])
    bad_digest = hashlib.sha256(bad_path.read_bytes()).hexdigest()
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def gone_after_a_while(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        await answer(404)(writer)

    async with web_server() as web:
        settings = settings_for(
            kafka.bootstrap_servers, tmp_path, fetch_allow=[f"{web.origin}/", tmp_path.as_uri() + "/"]
        )
        copies = [web.add(f"/copy-{number}", answer(200, bad_path.read_bytes())) for number in range(5)]
        missing = web.add("/missing", gone_after_a_while)
        async with fresh_service(settings) as service:
            corrupt = [event(f"corrupt-{n}", uri, sha256=bad_digest) for n, uri in enumerate(copies)]
            await publish(settings, *map(Written, corrupt))
            await until_settled(settings, 5, service)
            await publish(settings, Written(event("corrupt-later", copies[0], sha256=bad_digest)))
            await until_settled(settings, 6, service)
            fetches_of_corrupt = sum("/copy" in line for line in web.asked)

            leads = Written(event("leads", missing, sha256=good.digest), partition=good.partition)
            waits = Written(event("waits", good.uri, sha256=good.digest), partition=good.partition)
            await publish(settings, leads)
            async with asyncio.timeout(60):
                await asked.wait()
            # the last one shows that the one before it has been taken too
            await publish(settings, waits, Written(b"{", partition=good.partition))
            await until_settled(settings, 7, service)
            may_answer.set()
            await until_settled(settings, 9, service)
    found = await asyncio.to_thread(outcomes, settings)
    names = [*(f"corrupt-{number}" for number in range(5)), "corrupt-later"]
    assert {found.reason(name) for name in names} == {Reason.CORRUPT_AUDIO}
    assert fetches_of_corrupt == 1
    assert found.reason("leads") == Reason.NOT_FOUND
    transcript = found.transcript("waits").json
    assert (transcript["text"], transcript["cached"]) == (good.text, False)
    assert len(found.metrics) == 9


async def test_each_event_keeps_its_own_deadline_whoever_leads(kafka: Broker, tmp_path: Path) -> None:
    settings = settings_for(kafka.bootstrap_servers, tmp_path, simulated_realtime_factor=0.02)
    clip = make_clip(tmp_path, 1)  # heard for five seconds
    async with fresh_service(settings) as service:
        fields = {"sha256": clip.digest}
        await publish(
            settings,
            Written(event("leads", clip.uri, deadline_seconds=1.0, **fields), partition=clip.partition),
            Written(event("waits", clip.uri, deadline_seconds=1.5, **fields), partition=clip.partition),
            Written(event("patient", clip.uri, **fields), partition=clip.partition),
        )
        await until_settled(settings, 3, service)
    found = await asyncio.to_thread(outcomes, settings)
    assert found.reason("leads") == found.reason("waits") == Reason.DEADLINE_EXCEEDED
    transcript = found.transcript("patient").json
    assert (transcript["text"], transcript["cached"]) == (clip.text, False)
    assert found.metric("leads")["latency_seconds"]["total"] < found.metric("patient")["latency_seconds"]["total"]
