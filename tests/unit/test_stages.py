"""The stages below an event's span: what it waited for is told as such, and whose work it waited for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.core.model import Record, Recording, Wish
from consumer.dedup.single_flight import Result, SingleFlight
from consumer.dedup.store import DedupSlices
from consumer.errors import EventError, HoldError, ReasonedError
from consumer.pipeline import Pipeline
from consumer.settings import Settings
from consumer.settled import Memory, Settled
from consumer.telemetry.spans import Tracing
from schemas.codec import encode
from schemas.codes import Header, Hold, Reason
from schemas.models import AudioEvent, utc_now
from tests.unit.test_urgency import DIGEST, OneRecording, PatientEngine


class _Failing(PatientEngine):
    """Fails once, when it is let go on; then it hears."""

    def __init__(self, failure: Callable[[], ReasonedError]) -> None:
        super().__init__()
        self._failures = [failure]

    async def transcribe(self, recording: Recording, wish: Wish) -> Result:
        heard = await super().transcribe(recording, wish)
        if self._failures:
            failure = self._failures.pop()
            raise failure()
        return heard


@dataclass
class _Scene:
    """A pipeline that traces."""

    tasks: asyncio.TaskGroup
    pipeline: Pipeline
    exporter: InMemorySpanExporter

    def settle(
        self,
        name: str,
        *headers: tuple[str, bytes],
        deadline_seconds: float | None = None,
        published_at: datetime | None = None,
    ) -> asyncio.Task[Settled]:
        event = AudioEvent(
            event_id=name,
            uri="file:///a.wav",
            sha256=DIGEST,
            deadline_seconds=deadline_seconds,
            published_at=published_at,
        )
        now_ms = round(1000 * time.time())
        record = Record("t", 0, 0, now_ms, DIGEST.encode(), encode(event), headers)
        return self.tasks.create_task(self.pipeline.settle(record))

    def stages(self, task: asyncio.Task[Settled]) -> list[ReadableSpan]:
        """Those of an event that is settled, in order."""
        process = task.result().span.sampled
        assert process is not None
        found = self.exporter.get_finished_spans()
        return [span for span in found if span.parent is not None and span.parent.span_id == process.span_id]


@asynccontextmanager
async def _scene(engine: PatientEngine) -> AsyncIterator[_Scene]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        clock = asyncio.get_running_loop().time
        pipeline = Pipeline(
            Settings(),
            recordings=OneRecording(),
            engine=engine,
            fingerprint=lambda _: "f",
            memory=Memory(SingleFlight(tasks, clock, 10.0), DedupSlices(), clock),
            tracing=Tracing("test", provider),
            partitions=lambda: 1,
        )
        yield _Scene(tasks, pipeline, exporter)
    provider.shutdown()


def _told(stages: list[ReadableSpan]) -> list[tuple[str, str | None]]:
    """Names, and the codes of those that failed."""
    return [
        (stage.name, str(code) if (code := (stage.attributes or {}).get("error.type")) else None) for stage in stages
    ]


def _gone() -> EventError:
    return EventError(Reason.NOT_FOUND, "gone")


def _no_money(wait_seconds: float) -> HoldError:
    until = time.time() + wait_seconds
    return HoldError(Hold.BUDGET_EXHAUSTED, Reason.BUDGET_EXHAUSTED, "no money", until=until)


async def test_who_waits_for_anothers_recognition_is_linked_to_the_event_that_led_it() -> None:
    engine = PatientEngine()
    async with _scene(engine) as scene:
        leads = scene.settle("leads")
        await engine.asked.wait()
        joins = scene.settle("joins")
        await asyncio.sleep(0)
        engine.may_hear.set()
        await asyncio.wait([leads, joins])
        assert _told(scene.stages(leads)) == [("receive", None), ("decode", None), ("queue", None)]
        assert _told(scene.stages(joins)) == [("receive", None), ("wait", None)]
        assert [link.context for link in scene.stages(joins)[-1].links] == [leads.result().span.sampled]


async def test_who_leads_after_another_failed_had_waited_and_neither_fetched_nor_decoded_meanwhile() -> None:
    engine = _Failing(_gone)
    async with _scene(engine) as scene:
        first = scene.settle("first")
        await engine.asked.wait()
        second = scene.settle("second")
        await asyncio.sleep(0)
        engine.may_hear.set()
        await asyncio.wait([first, second])
        assert _told(scene.stages(first)) == [("receive", None), ("decode", None), ("infer", "not_found")]
        names = [("receive", None), ("wait", None), ("decode", None), ("queue", None)]
        assert _told(scene.stages(second)) == names


async def test_whose_deadline_passes_while_it_waits_has_one_wait_and_that_failed() -> None:
    engine = PatientEngine()
    async with _scene(engine) as scene:
        leads = scene.settle("leads")
        await engine.asked.wait()
        late = scene.settle("late", deadline_seconds=0.05)
        await late
        engine.may_hear.set()
        await leads
        assert _told(scene.stages(late)) == [("receive", None), ("wait", "deadline_exceeded")]


async def test_whose_deadline_passes_while_it_is_heard_failed_there() -> None:
    engine = PatientEngine()
    async with _scene(engine) as scene:
        late = scene.settle("late", deadline_seconds=0.05)
        await late
        assert _told(scene.stages(late)) == [("receive", None), ("decode", None), ("infer", "deadline_exceeded")]


async def test_an_event_that_is_held_did_not_fail_and_its_wait_is_not_anybody_elses_stage() -> None:
    engine = _Failing(lambda: _no_money(0.05))
    engine.may_hear.set()
    async with _scene(engine) as scene:
        held = scene.settle("held")
        await held
        stages = scene.stages(held)
        names = ["receive", "decode", "queue", "hold", "decode", "queue"]
        assert _told(stages) == [(name, None) for name in names]
        hold = stages[3]
        assert hold.end_time is not None
        assert hold.start_time is not None
        assert hold.end_time - hold.start_time >= 0.04 * 1e9


async def test_an_event_that_cannot_be_held_so_long_failed_for_what_it_would_wait_for() -> None:
    engine = _Failing(lambda: _no_money(3600))
    engine.may_hear.set()
    async with _scene(engine) as scene:
        broke = scene.settle("broke", deadline_seconds=60)
        await broke
        told = _told(scene.stages(broke))
    assert told == [("receive", None), ("decode", None), ("queue", None), ("hold", "budget_exhausted")]


async def test_an_event_that_comes_back_was_parked_since_it_left() -> None:
    engine = PatientEngine()
    engine.may_hear.set()
    left_at = utc_now() - timedelta(seconds=5)
    async with _scene(engine) as scene:
        headers = [(Header.PARKED_UNTIL, b"2026-01-01T00:00:00+00:00"), (Header.LEFT_AT, left_at.isoformat().encode())]
        back = scene.settle("back", *headers, published_at=left_at - timedelta(hours=1))
        await back
        stages = scene.stages(back)
        assert _told(stages) == [("parked", None), ("decode", None), ("queue", None)]
        assert stages[0].start_time == pytest.approx(left_at.timestamp() * 1e9, abs=1e4)
