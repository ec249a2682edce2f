"""How urgent work is, and that an event which joins another's recognition hurries it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from consumer.audio.recordings import Recordings, Source
from consumer.core.model import Heard, Record, Recording, Urgency, Wish
from consumer.core.outcomes import Transcribed
from consumer.dedup.single_flight import Result, SingleFlight
from consumer.dedup.store import DedupSlices
from consumer.pipeline import Pipeline
from consumer.settings import Settings
from consumer.settled import Memory, Settled
from consumer.telemetry.spans import Tracing
from schemas.codec import encode
from schemas.codes import Route
from schemas.models import AudioEvent, EngineRef, Recognised

DIGEST = "a" * 64


def test_urgency_grows_once_and_tells_those_who_listen_at_that_moment() -> None:
    urgency, wish, told = Urgency(), Wish(), []
    with urgency.listen(lambda: told.append("gone")):
        pass
    with urgency.listen(lambda: told.append("first")), urgency.listen(lambda: told.append("second")):
        assert not urgency.critical
        urgency.raise_to_critical()
        urgency.raise_to_critical()
    with urgency.listen(lambda: told.append("late")):
        urgency.raise_to_critical()
    assert told == ["first", "second"]
    assert not wish.critical
    wish.urgency.raise_to_critical()
    assert wish.critical


class PatientEngine:
    """Hears when the test lets it."""

    is_idle = True

    def __init__(self) -> None:
        self.wish = Wish()
        self.asked, self.may_hear = asyncio.Event(), asyncio.Event()

    def language_of(self, wish: Wish) -> str | None:
        return wish.language

    async def transcribe(self, recording: Recording, wish: Wish) -> Result:
        self.wish = wish
        wish.begins()
        self.asked.set()
        await self.may_hear.wait()
        maker = EngineRef(name="x", model="m")
        return Heard(Recognised(text="hello", engine=maker, audio_seconds=recording.audio_seconds), 0.0), Route.LOCAL


class OneRecording(Recordings):
    """One recording, at every address; nothing is fetched or decoded."""

    def __init__(self) -> None:
        pass

    def check(self, uri: str) -> None:
        assert uri

    async def digest_of(self, source: Source) -> str:
        assert source.uri
        return DIGEST

    @asynccontextmanager
    async def samples(self, source: Source, digest: str) -> AsyncIterator[Recording]:
        assert source.uri
        yield Recording(digest, Path("unread.pcm"), 16_000)


async def test_a_critical_event_that_joins_a_recognition_makes_it_critical() -> None:
    engine, slices = PatientEngine(), DedupSlices()
    async with asyncio.TaskGroup() as tasks:
        clock = asyncio.get_running_loop().time
        pipeline = Pipeline(
            Settings(),
            recordings=OneRecording(),
            engine=engine,
            fingerprint=lambda _: "f",
            memory=Memory(SingleFlight(tasks, clock, 10.0), slices, clock),
            tracing=Tracing("test"),
            partitions=lambda: 1,
        )

        def settle(name: str, *, critical: bool = False) -> asyncio.Task[Settled]:
            event = AudioEvent(event_id=name, uri="file:///a.wav", sha256=DIGEST, critical=critical)
            return tasks.create_task(pipeline.settle(Record("t", 0, 0, 0, DIGEST.encode(), encode(event))))

        leads = settle("leads")
        await engine.asked.wait()
        assert not engine.wish.critical
        hurried = asyncio.Event()
        with engine.wish.urgency.listen(hurried.set):
            joins = settle("joins", critical=True)
            async with asyncio.timeout(30):
                await hurried.wait()
        assert engine.wish.critical
        engine.may_hear.set()
    outcomes = [task.result().outcome for task in (leads, joins)]
    assert [outcome.cached for outcome in outcomes if isinstance(outcome, Transcribed)] == [False, True]
