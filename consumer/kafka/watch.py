"""Watches the metrics topic and publishes alerts: one process of the group at a time.

A consumer group of its own decides who: the member that owns partition 0 of the metrics topic reads all partitions by
itself. It takes a transactional id first, which fences whoever watched before; so what the alerts topic then says is
raised is the whole truth, the windows are filled from the metrics topic, and what is spent from the budget topic, which
knows of crashes: nothing else is kept anywhere.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from pydantic import ValidationError

from consumer.core.alerts import DAY_SECONDS, WEEK_SECONDS, Alerts, LagTrend, Limits, Windows
from consumer.core.backoff import RetryPolicy
from consumer.core.lane_budget import Peers
from consumer.core.outcomes import Write
from consumer.errors import FencedError, ServiceError
from consumer.kafka.client import connection
from consumer.kafka.group_lag import Lag, group_lag
from consumer.kafka.intake import assignor
from consumer.kafka.reading import Reader, metric_of, reading, to_ms
from consumer.kafka.spending import learn
from consumer.kafka.spending import limits_of as budgets_of
from consumer.kafka.transaction import DoubtfulError, LaneProducer
from consumer.settings import Settings
from consumer.telemetry.webhook import Webhook
from schemas.codec import encode
from schemas.models import Alert, utc_now
from schemas.topics import outcome_bytes

EVERY_SECONDS = 5.0
"""Between two looks at the windows."""
BACKOFF = RetryPolicy(first_seconds=1.0, max_seconds=60.0)
_LAG_SECONDS = 5.0
_NO_WORD_ERRORS = (b'"wer":null', b'"disagreement":null')
"""In a metric event as the service writes it."""
_LOOK_SECONDS = 1.0
"""How soon a fatal error of the group comes out."""

log = logging.getLogger(__name__)


async def watch(
    settings: Settings,
    *,
    left_alone: Callable[[], Sequence[str]] = tuple,
    clock: Callable[[], datetime] = utc_now,
    every_seconds: float = EVERY_SECONDS,
) -> None:
    """Watch whenever it is this process's turn, until cancelled. Failures of Kafka are logged and waited out.

    ``left_alone`` names the engines of this process whose breakers are open.
    """
    failures = 0
    watcher = _Watcher(settings, left_alone, clock, every_seconds)
    while True:
        try:
            async with _membership(settings) as turn:
                while True:
                    await turn.until(is_ours=True)
                    await _unless(turn.until(is_ours=False), watcher.run())
                    log.info("metrics_watched_elsewhere")
        except (KafkaError, ServiceError, FencedError, DoubtfulError) as error:
            failures = 1 if watcher.has_watched else failures + 1
            watcher.has_watched = False
            log.warning("watching_metrics_again: %s", error)
        await asyncio.sleep((0.5 + random.random() / 2) * BACKOFF.ceiling(failures))  # noqa: S311 (jitter)


class _Watcher:
    """One turn after the other of watching."""

    def __init__(
        self,
        settings: Settings,
        left_alone: Callable[[], Sequence[str]],
        clock: Callable[[], datetime],
        every_seconds: float,
    ) -> None:
        self._settings = settings
        self._left_alone = left_alone
        self._topics = settings.topics
        self._clock = clock
        self._every_seconds = every_seconds
        self._webhook = Webhook(settings.alert_webhook)
        self.has_watched = False
        """The windows were looked at since this was last set to False."""

    async def run(self) -> None:
        """Until cancelled. Raises FencedError, DoubtfulError, ServiceError or KafkaError: then all is read anew."""
        topics, budgets = self._topics, budgets_of(self._settings)
        needed = (topics.events, topics.metrics, topics.alerts, *([topics.budget] if budgets else []))
        async with (
            _producing(self._settings) as producer,
            reading(self._settings, *needed) as reader,
            group_lag(self._settings, reader) as lag,
        ):
            await producer.fence()
            alerts = Alerts(limits_of(self._settings), await last_alerts(reader, self._topics.alerts))
            windows, trend, peers = Windows(), LagTrend(), Peers(budgets, reader.counts.get(topics.budget, 1))
            since = self._clock() - timedelta(seconds=WEEK_SECONDS)
            loop, due = asyncio.get_running_loop(), 0.0
            starts = await reader.starts(topics.metrics, to_ms(since))
            if budgets:
                starts |= await reader.starts(topics.budget)
            async with aclosing(reader.follow(starts)) as batches:
                async for records, at_the_ends in batches:
                    now = self._clock()
                    for record in records:
                        if record.topic == topics.budget:
                            learn(peers, self._settings.group_id, record)
                        elif _counts(record, now) and (metric := metric_of(record)) is not None:
                            windows.add(metric, now)
                    if not at_the_ends or loop.time() < due:
                        continue
                    if not due:
                        log.info("watching_metrics raised=%s", ",".join(sorted(alerts.raised)) or "none")
                    due = loop.time() + self._every_seconds
                    await _sample(trend, lag, now)
                    seen = windows.seen(now, peers.standings(now))
                    found = alerts.judge(seen, trend.growth(now), now, self._left_alone())
                    await self._publish(producer, found)
                    self.has_watched = True

    async def _publish(self, producer: LaneProducer, changes: list[Alert]) -> None:
        if not changes:
            return
        # before they are published: whoever goes on after a crash tells again what was not, rather than nobody
        await asyncio.gather(*map(self._webhook.tell, changes))
        await producer.commit(
            [Write(self._topics.alerts, alert.name.encode(), encode(alert)) for alert in changes], None
        )
        for alert in changes:
            level = logging.WARNING if alert.state == "raised" else logging.INFO
            log.log(level, "alert_%s %s %s", alert.state, alert.name, alert.detail)


def limits_of(settings: Settings) -> Limits:
    """What the rules compare with, as the settings say."""
    return Limits(
        latency_p95_seconds=settings.alert_latency_p95_seconds,
        error_rate=settings.alert_error_rate,
        quality_drop=settings.alert_quality_drop,
        dead_letters=settings.alert_dead_letters,
        lag_growth=settings.alert_lag_growth,
        min_events=settings.alert_min_events,
        min_words=settings.alert_min_words,
    )


async def last_alerts(reader: Reader, topic: str) -> dict[str, Alert]:
    """What was last said of each alert. Raises ServiceError."""
    found: dict[str, Alert] = {}
    async with aclosing(reader.scan(await reader.starts(topic))) as records:
        async for record in records:
            try:
                alert = Alert.model_validate_json(record.value or b"")
            except ValidationError:
                log.warning("unreadable_alert %s/%d/%d", record.topic, record.partition, record.offset)
            else:
                found[alert.name] = alert
    return found


def _counts(record: ConsumerRecord, now: datetime) -> bool:
    """Of what is older than a day only word errors count. Most events have none: decoding those would take minutes."""
    old = record.timestamp < to_ms(now - timedelta(seconds=DAY_SECONDS))
    return not old or any(nothing not in (record.value or b"") for nothing in _NO_WORD_ERRORS)


async def _sample(trend: LagTrend, lag: Lag, now: datetime) -> None:
    """A moment without an answer is left out."""
    try:
        async with asyncio.timeout(_LAG_SECONDS):
            trend.add(await lag(), now)
    except (KafkaError, TimeoutError) as error:
        log.warning("lag_unknown: %r", error)


class _Turn(ConsumerRebalanceListener):  # type: ignore[misc]
    """Whether it is this process's turn; follows the group."""

    def __init__(self, consumer: AIOKafkaConsumer, first: TopicPartition) -> None:
        self._consumer = consumer
        self._first = first
        self._is_ours = False
        self._changed = asyncio.Event()

    async def until(self, *, is_ours: bool) -> None:
        """Wait for the turn, or for its end. Raises what the group cannot recover from."""
        while self._is_ours != is_ours:
            self._changed.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                self._consumer._coordinator.check_errors()  # noqa: SLF001 (getmany would tell, but nothing is read here)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """All are revoked before anyone knows who keeps what: nothing is decided yet."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Partition 0 is the turn; nothing is fetched here."""
        for partition in assigned:
            # a position of some kind keeps aiokafka from asking for one
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)
        self._is_ours = self._first in assigned
        self._changed.set()


@asynccontextmanager
async def _membership(settings: Settings) -> AsyncIterator[_Turn]:
    topic = settings.topics.metrics
    consumer = AIOKafkaConsumer(
        **connection(settings),
        group_id=f"{settings.group_id}-alerts",
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="none",
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        rebalance_timeout_ms=settings.rebalance_timeout_ms,
        max_poll_interval_ms=24 * 3600 * 1000,  # it polls nothing and is well
        partition_assignment_strategy=[assignor("sticky")],  # the turn stays where it is
    )
    turn = _Turn(consumer, TopicPartition(topic, 0))
    try:
        await consumer.start()
        consumer.subscribe([topic], listener=turn)
        yield turn
    finally:
        await consumer.stop()


@asynccontextmanager
async def _producing(settings: Settings) -> AsyncIterator[LaneProducer]:
    producer = LaneProducer(
        connection(settings),
        transactional_id=f"{settings.group_id}.{settings.topics.alerts}",
        group_id=settings.group_id,
        timeout_seconds=settings.transaction_timeout_ms / 1000,
        max_request_bytes=outcome_bytes(settings.max_event_bytes),
    )
    try:
        yield producer
    finally:
        await producer.stop()


async def _unless(interruption: Awaitable[None], work: Awaitable[None]) -> None:
    """Do the work until it ends or is interrupted. Raises what either raises."""
    tasks = [asyncio.ensure_future(interruption), asyncio.ensure_future(work)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
