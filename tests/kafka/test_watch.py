"""Alerts on a real topic: told once, remembered across restarts, and by one process of the group at a time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson
import pytest

from consumer.core.outcomes import Write
from consumer.kafka.client import connection
from consumer.kafka.reading import to_ms
from consumer.kafka.transaction import LaneProducer
from consumer.kafka.watch import watch
from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Reason
from schemas.models import Alert, BudgetAccount, BudgetEntry, TranscriptionMetric, WordErrors, utc_now
from schemas.topics import Topics
from tests.support.kafka import Broker, Written, read_topic, write_records
from tests.support.metrics import metric
from tests.support.scenario import event, fresh_service, make_clip, publish, read, settings_for, until
from tests.support.scripted_api import ScriptedApi, failed

pytestmark = pytest.mark.kafka
RAISED = {"state": "raised", "value": 90.0, "threshold": 60.0, "window_seconds": 300.0, "detail": "slow"}
Clock = Callable[[], datetime]


async def write(settings: Settings, *found: TranscriptionMetric | bytes, written: datetime | None = None) -> None:
    """Write metric events, or what is none, as if it was then."""
    at_ms = None if written is None else to_ms(written)
    values = [one if isinstance(one, bytes) else encode(one) for one in found]
    records = [Written(value, b"%d" % number, timestamp_ms=at_ms) for number, value in enumerate(values)]
    await asyncio.to_thread(write_records, settings.kafka_bootstrap_servers, settings.topics.metrics, records)


def alerts(settings: Settings) -> list[tuple[str, str]]:
    """Name and state of every alert that was ever published, by name, each name's in their order; blocks."""
    found = read_topic(settings.kafka_bootstrap_servers, settings.topics.alerts)
    assert all(record.key == record.json["name"] for record in found)
    return by_name([(record.json["name"], record.json["state"]) for record in found])


def by_name(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(found, key=lambda alert: alert[0])


async def until_alerts(settings: Settings, *expected: tuple[str, str]) -> None:
    """Wait until exactly these were published."""
    await until(lambda: alerts(settings) == by_name(expected), f"the alerts are {expected}")


@asynccontextmanager
async def watching(settings: Settings, clock: Clock = utc_now) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watch(settings, clock=clock, every_seconds=0.05))
    try:
        yield task
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def flying(start: datetime) -> Clock:
    """A clock that goes a minute further each time it is looked at."""
    looks = iter(range(1_000_000))
    return lambda: start + timedelta(minutes=next(looks))


async def test_an_alert_is_raised_once_across_restarts_and_cleared_by_whoever_watches_then(
    kafka_settings: Settings, topics: Topics
) -> None:
    slow, raised = ("latency_high", "raised"), ("dead_letters", "raised")
    await write(kafka_settings, *[metric(utc_now(), seconds=90.0)] * 20, b"no metric event")
    async with watching(kafka_settings):
        await until_alerts(kafka_settings, slow)

    async with watching(kafka_settings):
        await write(kafka_settings, metric(utc_now(), reason=Reason.NOT_FOUND))
        # whatever the restart would raise again is before this one
        await until_alerts(kafka_settings, slow, raised)

    async with watching(kafka_settings, flying(utc_now() + timedelta(hours=2))):
        await until_alerts(kafka_settings, slow, raised, ("latency_high", "cleared"), ("dead_letters", "cleared"))


async def test_after_a_restart_quality_is_still_compared_with_the_week_before(
    kafka_settings: Settings, topics: Topics
) -> None:
    settings = kafka_settings.model_copy(update={"alert_min_words": 1000})
    before = utc_now() - timedelta(days=3)
    good = metric(before, wer=WordErrors(errors=100, words=1000))
    await write(settings, *[metric(before)] * 10, *[good] * 5, written=before)
    await write(settings, *[metric(utc_now(), wer=WordErrors(errors=200, words=1000))] * 2)
    async with watching(settings):
        await until_alerts(settings, ("quality_drop", "raised"))


async def test_of_two_who_watch_one_speaks_and_the_other_takes_over(kafka_settings: Settings, topics: Topics) -> None:
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        await first.enter_async_context(watching(kafka_settings))
        await write(kafka_settings, metric(utc_now(), reason=Reason.NOT_FOUND))
        await until_alerts(kafka_settings, ("dead_letters", "raised"))
        await second.enter_async_context(watching(kafka_settings))
        await first.aclose()
        await write(kafka_settings, *[metric(utc_now(), seconds=90.0)] * 20)
        await until_alerts(kafka_settings, ("dead_letters", "raised"), ("latency_high", "raised"))


async def test_a_watcher_whose_turn_was_taken_publishes_nothing_before_it_has_read_all_anew(
    kafka_settings: Settings, topics: Topics
) -> None:
    thief = LaneProducer(
        connection(kafka_settings),
        transactional_id=f"{kafka_settings.group_id}.{topics.alerts}",
        group_id=kafka_settings.group_id,
        timeout_seconds=10.0,
        max_request_bytes=1_000_000,
    )
    async with watching(kafka_settings):
        await write(kafka_settings, metric(utc_now(), reason=Reason.NOT_FOUND))
        await until_alerts(kafka_settings, ("dead_letters", "raised"))
        await thief.fence()
        # as if the thief had watched too, and had been the first to see it
        slow = Alert(**{**RAISED, "name": "latency_high", "at": utc_now()})
        await thief.commit([Write(topics.alerts, b"latency_high", encode(slow))], None)
        await thief.stop()
        await write(kafka_settings, *[metric(utc_now(), seconds=90.0)] * 20)
        await write(kafka_settings, *[metric(utc_now(), reason=Reason.EMPTY)] * 20)
        await until_alerts(
            kafka_settings, ("dead_letters", "raised"), ("latency_high", "raised"), ("error_rate_high", "raised")
        )


async def write_spent(settings: Settings, partition: int, group_id: str, microusd: int, at: datetime) -> None:
    """What a lane of a group says that it has spent on a day."""
    today = f"{at:%Y-%m-%d}"
    account = BudgetAccount(scope="*", period=today, spent_microusd=microusd, reserved_microusd=microusd)
    entry = encode(BudgetEntry(partition=partition, accounts=[account], at=at))
    record = Written(entry, f"{group_id}/{partition}".encode(), partition=partition)
    await asyncio.to_thread(write_records, settings.kafka_bootstrap_servers, settings.topics.budget, [record])


async def test_a_budget_runs_low_by_what_the_lanes_of_this_group_have_committed(
    kafka_settings: Settings, topics: Topics
) -> None:
    settings, now = kafka_settings.model_copy(update={"budget_usd_per_day": 1.0}), utc_now()
    await write_spent(settings, 0, settings.group_id, 450_000, now)
    await write_spent(settings, 1, "another", 900_000, now)
    async with watching(settings, lambda: now):
        await write(settings, metric(utc_now(), reason=Reason.NOT_FOUND))
        await until_alerts(settings, ("dead_letters", "raised"))
        await write_spent(settings, 1, settings.group_id, 400_000, now)
        await until_alerts(settings, ("dead_letters", "raised"), ("budget_low", "raised"))


@contextmanager
def hook(status: int, answers: Event | None = None) -> Iterator[tuple[str, list[Any]]]:
    """Something that takes alerts: its address, and what it was sent. It says nothing before ``answers`` is set."""
    told: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(orjson.loads(self.rfile.read(int(self.headers["content-length"]))))
            if answers is not None:
                answers.wait()
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the library's name)
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/s3cret", told
        finally:
            server.shutdown()
            thread.join()


async def test_a_webhook_is_told_what_the_topic_says_and_its_failures_stop_nothing(
    kafka_settings: Settings, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with hook(500) as (address, told):
        async with watching(kafka_settings.model_copy(update={"alert_webhook": address})):
            await write(kafka_settings, metric(utc_now(), reason=Reason.NOT_FOUND))
            await until_alerts(kafka_settings, ("dead_letters", "raised"))
            await write(kafka_settings, *[metric(utc_now(), seconds=90.0)] * 20)
            await until_alerts(kafka_settings, ("dead_letters", "raised"), ("latency_high", "raised"))
            said = "alert_webhook_failed latency_high HTTP 500 failures=2"
            await until(lambda: said in caplog.text, said)

    assert [alert["name"] for alert in told] == ["dead_letters", "latency_high"]
    assert "s3cret" not in caplog.text


async def test_an_alert_whose_post_was_cut_off_by_a_crash_is_posted_again(
    kafka_settings: Settings, topics: Topics
) -> None:
    answers = Event()
    with hook(200, answers) as (address, told):
        settings = kafka_settings.model_copy(update={"alert_webhook": address})
        try:
            async with watching(settings):
                await write(settings, metric(utc_now(), reason=Reason.NOT_FOUND))
                await until(lambda: len(told) == 1, "the post is under way")
        finally:
            answers.set()
        assert alerts(settings) == [], "what is published would not be told again"
        async with watching(settings):
            await until_alerts(settings, ("dead_letters", "raised"))
    assert [alert["name"] for alert in told] == ["dead_letters"] * 2


async def test_the_service_watches_its_own_metrics(kafka: Broker, tmp_path: Path) -> None:
    settings = settings_for(kafka.bootstrap_servers, tmp_path, fetch_attempts=1)
    async with fresh_service(settings) as service:
        await publish(settings, Written(event("gone", (tmp_path / "gone.wav").as_uri()), b"gone"))
        await service.until_log("alert_raised dead_letters 1 new dead letter$")
    await until_alerts(settings, ("dead_letters", "raised"))


async def test_a_dead_api_that_nobody_stands_in_for_is_told_although_no_event_is_settled(
    kafka: Broker, tmp_path: Path
) -> None:
    settings = settings_for(kafka.bootstrap_servers, tmp_path, engine="openai", breaker_reset_seconds=600.0)
    async with ScriptedApi([failed(401)]) as api:
        environment = {"OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": "x"}
        async with fresh_service(settings, **environment) as service:
            await publish(settings, Written(event("waits", make_clip(tmp_path, 1).uri), b"waits"))
            await service.until_log("alert_raised breaker_open primary is left alone")
    assert await read(settings, settings.topics.metrics) == []
