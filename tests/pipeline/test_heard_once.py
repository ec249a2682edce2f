"""Many events of few recordings, at several instances, through crashes and restarts: each recording is heard once."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.kafka.topics import create
from consumer.settings import Settings
from schemas.topics import digest_partition
from tests.support.kafka import PARTITIONS, Broker, Written
from tests.support.scenario import (
    Clip,
    Outcomes,
    as_instance,
    event,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until_settled,
)
from tests.support.service import serving

pytestmark = pytest.mark.kafka

CLIPS, EVENTS = 100, 300
USD_PER_MINUTE = 6.0


@dataclass(frozen=True)
class Run:
    """Events by id with their recordings, and what came out."""

    wanted: dict[str, Clip]
    found: Outcomes
    again: Outcomes
    """After a second service was given every recording once more."""

    def distinct(self) -> set[str]:
        return {clip.digest for clip in self.wanted.values()}


def _events(clips: list[Clip], seed: int) -> tuple[list[Written], dict[str, Clip]]:
    """In random order, keyed in every way that a publisher may think of, with and without digests."""
    dice = random.Random(seed)
    pairs = [(f"event-{number}", clips[number % len(clips)]) for number in range(EVENTS)]
    dice.shuffle(pairs)
    return [_written(dice, event_id, clip) for event_id, clip in pairs], dict(pairs)


def _written(dice: random.Random, event_id: str, clip: Clip) -> Written:
    claim = dice.choice([{}, {"sha256": clip.digest}, {"sha256": clip.digest.upper()}])
    value = event(event_id, clip.uri, **claim)
    keys = [dice.randbytes(8).hex(), clip.digest, clip.digest.upper(), None]
    key = dice.choice(keys)
    partition = dice.choice([None, dice.randrange(PARTITIONS)])
    return Written(value, key=None if key is None else key.encode(), partition=partition)


def _settings(kafka: Broker, folder: Path, **chosen: object) -> Settings:
    return settings_for(kafka.bootstrap_servers, folder, simulated_usd_per_minute=USD_PER_MINUTE, **chosen)


async def _run(settings: Settings, clips: list[Clip]) -> Run:
    await create(settings)
    records, wanted = _events(clips, seed=1)
    async with serving(as_instance(settings, "a")) as a, serving(as_instance(settings, "b")) as b:
        await asyncio.gather(a.until_log("lane_open"), b.until_log("lane_open"))
        await publish(settings, *records)
        await until_settled(settings, EVENTS, a, b)
        assert [*await asyncio.gather(a.stop(), b.stop())] == [0, 0]
    found = await asyncio.to_thread(outcomes, settings)
    async with serving(as_instance(settings, "c")) as c:
        await publish(settings, *(Written(event(f"again-{n}", clip.uri)) for n, clip in enumerate(clips)))
        await until_settled(settings, EVENTS + CLIPS, c)
        assert await c.stop() == 0
    return Run(wanted, found, await asyncio.to_thread(outcomes, settings))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("heard-once")
    return [make_clip(folder, number, seconds=0.05 + number / 1000) for number in range(CLIPS)]


@pytest.fixture(scope="module")
def run(kafka: Broker, clips: list[Clip]) -> Run:
    """Two instances serve everything; a third, later, serves every recording again."""
    return asyncio.run(_run(_settings(kafka, clips[0].path.parent), clips))


def test_every_event_has_exactly_one_transcript_and_one_metric(run: Run) -> None:
    _assert_one_outcome_each(run.found, run.wanted)


def test_every_recording_is_recognised_once(run: Run) -> None:
    heard = [record.json["sha256"] for record in run.found.transcripts if not record.json["cached"]]
    assert sorted(heard) == sorted(run.distinct())


def test_the_costs_are_those_of_the_recordings_not_of_the_events(run: Run) -> None:
    by_digest = {clip.digest: clip.seconds for clip in run.wanted.values()}
    expected = sum(by_digest.values()) * USD_PER_MINUTE / 60
    assert sum(record.json["cost_usd"] for record in run.found.metrics) == pytest.approx(expected)
    assert sum(record.json["cost_usd"] for record in run.found.transcripts) == pytest.approx(expected)


def test_the_dedup_topic_holds_each_recording_in_the_partition_of_its_digest(run: Run) -> None:
    assert {key.split("/")[1] for key in run.found.entries} == run.distinct()
    assert len(run.found.entries) == CLIPS
    for key, entry in run.found.entries.items():
        assert entry.partition == digest_partition(key.split("/")[1], PARTITIONS)


def test_all_transcripts_of_a_recording_have_the_same_text(run: Run) -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for record in run.found.transcripts:
        texts[record.json["sha256"]].add(record.json["text"])
    assert {digest: {f"simulated {digest[:16]}"} for digest in run.distinct()} == texts


def test_a_cached_transcript_costs_nothing_and_names_its_route(run: Run) -> None:
    for record in run.found.transcripts:
        if record.json["cached"]:
            assert (record.json["route"], record.json["cost_usd"]) == ("cache", 0.0)


def test_a_second_service_on_the_same_topics_serves_everything_from_the_first_ones_memory(run: Run) -> None:
    fresh = [run.again.transcript(f"again-{number}").json for number in range(CLIPS)]
    assert all(transcript["cached"] and transcript["cost_usd"] == 0.0 for transcript in fresh)
    assert len(run.again.transcripts) == EVENTS + CLIPS
    assert len(run.again.entries) == CLIPS


async def test_an_instance_killed_in_the_middle_loses_and_doubles_nothing(kafka: Broker, clips: list[Clip]) -> None:
    # two slots of 50 ms and more: the kill falls into the work, and at most two recognitions run at any moment
    settings = _settings(
        kafka,
        clips[0].path.parent,
        simulated_realtime_factor=1.0,
        simulated_concurrency=2,
        session_timeout_ms=2000,
        heartbeat_interval_ms=500,
    )
    await create(settings)
    records, wanted = _events(clips, seed=2)
    async with serving(as_instance(settings, "a")) as a, serving(as_instance(settings, "b")) as b:
        await asyncio.gather(a.until_log("lane_open"), b.until_log("lane_open"))
        await publish(settings, *records)
        await until_settled(settings, 20, a, b)
        await b.kill()
        await until_settled(settings, EVENTS, a)
        assert await a.stop() == 0
    found = await asyncio.to_thread(outcomes, settings)
    _assert_one_outcome_each(found, wanted)
    # what ran there was heard again, but nobody saw, and nobody was billed for, more than one recognition
    assert found.recognitions == CLIPS
    assert len(found.entries) == CLIPS


def _assert_one_outcome_each(found: Outcomes, wanted: dict[str, Clip]) -> None:
    assert sorted(record.key or "" for record in found.transcripts) == sorted(wanted)
    assert sorted(record.key or "" for record in found.metrics) == sorted(wanted)
    assert found.dead_letters == []
    for record in found.transcripts:
        clip = wanted[record.json["event_id"]]
        assert (record.json["sha256"], record.json["text"]) == (clip.digest, clip.text)
