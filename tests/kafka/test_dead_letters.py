"""A dead letter is handled exactly once: whatever interrupts it, and whoever else is at it."""

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from consumer.core.model import Record
from consumer.core.outcomes import Write
from consumer.core.review import Action, Letter, LetterId, Mark, replay_of
from consumer.errors import ServiceError
from consumer.kafka import dead_letters, transaction
from consumer.kafka.dead_letters import review_desk
from consumer.kafka.handling import Decide, Decision, Handled, Taken
from consumer.kafka.transaction import LaneProducer
from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Header, Reason
from schemas.models import DeadLetter, Origin, utc_now
from schemas.topics import Topics
from tests.support.kafka import Read, Written, partition_count, read_topic, topic_names, write_records
from tests.support.scenario import event, fresh_service, make_clip, outcomes, publish, settings_for, until_settled

pytestmark = pytest.mark.kafka


def write_letters(settings: Settings, count: int, *, partition: int = 0) -> list[LetterId]:
    """Letters as the service writes them, in one partition."""
    records = []
    for number in range(count):
        payload = event(f"e{number}", f"file:///{number}.wav")
        letter = DeadLetter(
            event_id=f"e{number}",
            tenant="default",
            reason=Reason.NOT_FOUND,
            detail="not there",
            attempts=1,
            origin=Origin(
                topic=settings.topics.events,
                partition=0,
                offset=number,
                timestamp_ms=0,
                key_base64=b64encode(b"e%d" % number).decode(),
            ),
            payload_base64=b64encode(payload).decode(),
            failed_at=utc_now(),
        )
        records.append(Written(encode(letter), b"e%d" % number, partition=partition))
    places = write_records(settings.kafka_bootstrap_servers, settings.topics.dead_letters, records)
    return [LetterId(*place) for place in places]


def replaying(settings: Settings) -> Decide:
    def decide(letter: Letter, run: str) -> Decision:
        again = replay_of(letter, fresh=False, now=utc_now(), limit_bytes=settings.max_event_bytes)
        at = letter.record.timestamp_ms
        mark = Mark(action=Action.REPLAYED, at=utc_now(), letter_timestamp_ms=at, run=run, replay=again.number)
        return Decision(mark, again.write(settings.topics.events))

    return decide


async def replay(settings: Settings, ids: Iterable[LetterId]) -> list[Handled]:
    async with review_desk(settings) as desk, aclosing(desk.handle(ids, replaying(settings))) as handled:
        return [one async for one in handled]


async def events(settings: Settings) -> list[Read]:
    return await asyncio.to_thread(read_topic, settings.kafka_bootstrap_servers, settings.topics.events)


async def test_replayed_letters_are_on_their_topic_once_and_marked(kafka_settings: Settings, topics: Topics) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 3)

    first = await replay(kafka_settings, ids[:2])
    second = await replay(kafka_settings, ids)

    assert [one.by_us for one in first] == [True, True]
    assert [one.by_us for one in second] == [False, False, True]
    published = await events(kafka_settings)
    assert sorted(read.json["event_id"] for read in published) == ["e0", "e1", "e2"]
    assert {read.header(Header.REPLAY) for read in published} == {b"1"}
    assert all(read.timestamp_ms > (utc_now() - timedelta(minutes=5)).timestamp() * 1000 for read in published)
    letters = await asyncio.to_thread(read_topic, kafka_settings.kafka_bootstrap_servers, topics.dead_letters)
    assert len(letters) == 3, "marks have a topic of their own"


async def test_looking_makes_no_topic_and_the_first_mark_makes_one_like_the_letters_own(
    kafka_settings: Settings, topics: Topics
) -> None:
    [letter] = await asyncio.to_thread(write_letters, kafka_settings, 1, partition=3)
    async with review_desk(kafka_settings) as desk:
        found = await desk.find(letter)
        assert found is not None
        assert await desk.marks() == {}
    assert topics.review not in await asyncio.to_thread(topic_names, kafka_settings.kafka_bootstrap_servers)

    await replay(kafka_settings, [letter])

    assert await asyncio.to_thread(partition_count, kafka_settings.kafka_bootstrap_servers, topics.review) == 4


async def test_a_run_that_is_cut_off_before_its_commit_has_done_nothing_and_the_next_does_it_once(
    kafka_settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 3)
    sent = asyncio.Event()

    async def hangs(_: AIOKafkaProducer) -> None:
        sent.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaProducer, "commit_transaction", hangs)
        cut_off = asyncio.create_task(replay(kafka_settings, ids))
        await asyncio.wait_for(sent.wait(), 30)
        cut_off.cancel()
        await asyncio.wait([cut_off])

    handled = await replay(kafka_settings, ids)

    assert [one.by_us for one in handled] == [True, True, True]
    assert len(await events(kafka_settings)) == 3


async def test_a_run_that_is_cut_off_after_its_commit_is_not_repeated(
    kafka_settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 2)
    commit, committed = LaneProducer.commit, asyncio.Event()

    async def commits_and_hangs(self: LaneProducer, *arguments: object) -> list[int]:
        await commit(self, *arguments)  # type: ignore[arg-type]
        committed.set()
        await asyncio.Event().wait()
        return []

    with monkeypatch.context() as patch:
        patch.setattr(LaneProducer, "commit", commits_and_hangs)
        cut_off = asyncio.create_task(replay(kafka_settings, ids))
        await asyncio.wait_for(committed.wait(), 30)
        cut_off.cancel()
        await asyncio.wait([cut_off])

    handled = await replay(kafka_settings, ids)

    assert [one.by_us for one in handled] == [False, False]
    assert len(await events(kafka_settings)) == 2


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_up_not_guessed(
    kafka_settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 2)
    commit = AIOKafkaProducer.commit_transaction
    lost: list[AIOKafkaProducer] = []

    async def loses_the_answer(self: AIOKafkaProducer) -> None:
        if not lost:
            lost.append(self)
            if happened:
                await commit(self)
            raise TimeoutError
        await commit(self)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", loses_the_answer)
    handled = await replay(kafka_settings, ids)

    assert [one.by_us for one in handled] == [True, True]
    assert len(await events(kafka_settings)) == 2


async def test_two_runs_at_once_publish_each_letter_once(kafka_settings: Settings, topics: Topics) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 5)
    ids += await asyncio.to_thread(write_letters, kafka_settings, 5, partition=2)

    ran = await asyncio.gather(*(replay(kafka_settings, ids) for _ in range(3)), return_exceptions=True)

    assert all(isinstance(result, list | ServiceError) for result in ran), ran
    await replay(kafka_settings, ids)
    assert len(await events(kafka_settings)) == 10


@pytest.mark.parametrize("refused_between_sends", [False, True])
async def test_a_run_that_another_one_has_overtaken_publishes_nothing_and_claims_nothing(
    kafka_settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch, refused_between_sends: bool
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 1)
    decided, go_on = asyncio.Event(), asyncio.Event()
    commit, send = Taken._commit, transaction._send

    async def waits(self: Taken, decisions: dict[LetterId, Decision]) -> None:
        if not decided.is_set():
            decided.set()
            await go_on.wait()
            monkeypatch.setattr(transaction, "_send", sends_and_is_refused if refused_between_sends else send)
        await commit(self, decisions)

    async def sends_and_is_refused(producer: AIOKafkaProducer, write: Write) -> asyncio.Future[Any]:
        monkeypatch.setattr(transaction, "_send", send)
        sent = await send(producer, write)
        # the client has learnt of the fence before the next send begins, and calls that one an illegal operation
        await asyncio.wait([producer._sender.sender_task], timeout=30)
        return sent

    monkeypatch.setattr(Taken, "_commit", waits)
    slow = asyncio.create_task(replay(kafka_settings, ids))
    await asyncio.wait_for(decided.wait(), 30)
    [quick] = await replay(kafka_settings, ids)
    go_on.set()

    if refused_between_sends:
        assert await slow == [Handled(ids[0], quick.mark, by_us=False)]
    else:
        # which of the two depends on when the client hears of its fence; both are true
        try:
            assert await slow == [Handled(ids[0], quick.mark, by_us=False)]
        except ServiceError as error:
            assert "another run" in str(error)  # noqa: PT017 (either way is right)
    assert quick.by_us
    assert len(await events(kafka_settings)) == 1


async def test_more_letters_than_one_transaction_takes_are_all_handled(
    kafka_settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 7)
    monkeypatch.setattr(dead_letters, "_TOGETHER", 3)
    monkeypatch.setattr(dead_letters, "_TOGETHER_BYTES", 700)

    handled = await replay(kafka_settings, ids)

    assert [one.id for one in handled if one.by_us] == ids
    assert len(await events(kafka_settings)) == 7


async def test_letters_that_are_not_there_are_told_and_the_others_handled(
    kafka_settings: Settings, topics: Topics
) -> None:
    [letter] = await asyncio.to_thread(write_letters, kafka_settings, 1)

    handled = await replay(kafka_settings, [letter, LetterId(0, 99), LetterId(9, 0)])

    assert {one.id: bool(one.refused) for one in handled} == {
        letter: False,
        LetterId(0, 99): True,
        LetterId(9, 0): True,
    }


async def test_a_missing_topic_is_told_with_the_command_that_makes_it(kafka_settings: Settings) -> None:
    with pytest.raises(ServiceError, match="topics create"):
        async with review_desk(kafka_settings):
            pass


async def test_a_mark_that_cannot_be_read_stops_the_review_rather_than_replay_twice(
    kafka_settings: Settings, topics: Topics
) -> None:
    ids = await asyncio.to_thread(write_letters, kafka_settings, 2)
    await replay(kafka_settings, ids[:1])
    strange = [Written(b"?", b"0/0", partition=0)]
    await asyncio.to_thread(write_records, kafka_settings.kafka_bootstrap_servers, topics.review, strange)

    with pytest.raises(ServiceError, match=r"review/0/\d+ is no mark"):
        await replay(kafka_settings, ids)


async def test_a_replayed_event_has_its_own_transcript_and_metric_once_its_recording_is_there(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    settings = settings_for(kafka_settings.kafka_bootstrap_servers, tmp_path)
    clip = make_clip(tmp_path / "clips", 1)
    content = clip.path.read_bytes()
    clip.path.unlink()
    async with fresh_service(settings) as service:
        await publish(settings, Written(event("late", clip.uri), b"late", headers=[("mine", b"1")]))
        await until_settled(settings, 1, service)
        before = await asyncio.to_thread(outcomes, settings)
        letter = before.dead_letter("late")
        assert letter.json["reason"] == "not_found"

        clip.path.write_bytes(content)
        wanted = [LetterId(letter.partition, letter.offset)]
        [first] = await replay(settings, wanted)
        [second] = await replay(settings, wanted)
        await until_settled(settings, 2, service)

    assert (first.by_us, second.by_us) == (True, False)
    after = await asyncio.to_thread(outcomes, settings)
    assert after.transcript("late").json["text"] == clip.text
    assert sorted(record.json["outcome"] for record in after.metrics) == ["dead_lettered", "transcribed"]
    assert len(after.dead_letters) == 1
    replays = [read for read in await events(settings) if read.header(Header.REPLAY)]
    assert {(read.header(Header.REPLAY), read.header("mine")) for read in replays} == {(b"1", b"1")}


async def test_a_replay_that_fails_again_is_a_new_letter_that_counts_on(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    settings = settings_for(kafka_settings.kafka_bootstrap_servers, tmp_path)
    async with fresh_service(settings) as service:
        await publish(settings, Written(event("gone", (tmp_path / "gone.wav").as_uri()), b"gone"))
        for time in range(1, 3):
            await until_settled(settings, time, service)
            letters = (await asyncio.to_thread(outcomes, settings)).dead_letters
            [newest] = [found for found in letters if Letter.of(_as_record(found)).replays == time - 1]
            [handled] = await replay(settings, [LetterId(newest.partition, newest.offset)])
            assert handled.mark is not None
            assert handled.mark.replay == time
        await until_settled(settings, 3, service)
    letters = (await asyncio.to_thread(outcomes, settings)).dead_letters
    assert sorted(Letter.of(_as_record(found)).replays for found in letters) == [0, 1, 2]


def _as_record(read: Read) -> Record:
    return Record(read.topic, read.partition, read.offset, read.timestamp_ms, None, read.value, read.headers)
