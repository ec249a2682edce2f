"""From address to samples: what is fetched, what is taken from the spool, and what is believed."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.audio.recordings import RecordingChangedError, Recordings, Source
from consumer.audio.spool import Fetched, Spool
from consumer.core.model import Recording
from consumer.errors import EventError, RecordingError, TransientError
from schemas.codes import Reason


@dataclass
class Places:
    """Addresses and what lies there; counts the fetches and keeps real files in a real spool."""

    spool: Spool
    bytes_at: dict[str, bytes] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)

    def check(self, uri: str) -> None:
        if uri not in self.bytes_at:
            raise EventError(Reason.URI_NOT_ALLOWED, uri)

    @asynccontextmanager
    async def fetch(self, uri: str) -> AsyncIterator[Fetched]:
        self.fetched.append(uri)
        if self.failures:
            raise self.failures.pop(0)
        with self.spool.part() as part:
            part.write(self.bytes_at[uri])
            with self.spool.lease(self.spool.keep(part)) as held:
                assert held is not None
                yield held

    async def decode(self, fetched: Fetched) -> Recording:
        data = fetched.path.read_bytes()
        self.decoded.append(fetched.digest)
        if data.startswith(b"bad"):
            raise RecordingError(Reason.CORRUPT_AUDIO, "bad")
        return Recording(fetched.digest, fetched.path, len(data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    spool = Spool(tmp_path, 1_000_000)
    spool.open()
    return Places(spool, {"a": b"one", "b": b"one", "c": b"two"})


@pytest.fixture
def recordings(places: Places) -> Recordings:
    return Recordings(places.spool, places, places, attempts=2, samples_limit_bytes=1 << 20, decodes_at_once=2)


async def _samples(recordings: Recordings, source: Source, digest: str) -> int:
    async with recordings.samples(source, digest) as recording:
        assert recording.digest == digest
        return recording.samples


async def test_a_fetch_that_is_tried_again_says_so_in_the_events_trace(places: Places, recordings: Recordings) -> None:
    places.failures = [TransientError(Reason.FETCH_TIMEOUT, "slow", retry_after_seconds=0.0)]
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("process"):
        await recordings.digest_of(Source("a", "t/0/1"))
    (told,) = exporter.get_finished_spans()[0].events
    assert (told.name, dict(told.attributes or {})) == (
        "try_failed",
        {"earwitness.stage": "fetch", "error.type": "fetch_timeout"},
    )
    provider.shutdown()


async def test_what_was_hashed_for_an_event_is_not_fetched_again(places: Places, recordings: Recordings) -> None:
    source = Source("a", "t/0/1")
    digest = await recordings.digest_of(source)
    assert (digest, source.fetch_seconds is not None) == (_digest(b"one"), True)
    moved = Source("a", "t/0/1")  # in another lane, with the origin of its first record
    assert await _samples(recordings, moved, digest) == 3
    assert (places.fetched, moved.fetch_seconds, moved.decode_seconds is not None) == (["a"], None, True)


@pytest.mark.parametrize("other", [Source("a", "t/0/2"), Source("b", "t/0/1")])
async def test_another_event_must_fetch_for_itself(places: Places, recordings: Recordings, other: Source) -> None:
    digest = await recordings.digest_of(Source("a", "t/0/1"))
    await _samples(recordings, other, digest)
    assert len(places.fetched) == 2


async def test_what_has_left_the_spool_is_fetched_again(places: Places, recordings: Recordings) -> None:
    digest = await recordings.digest_of(Source("a", "t/0/1"))
    places.spool.close()
    places.spool.open()
    assert await _samples(recordings, Source("a", "t/0/1"), digest) == 3
    assert places.fetched == ["a", "a"]


async def test_a_claim_that_the_bytes_contradict_is_a_mismatch(recordings: Recordings) -> None:
    claim = _digest(b"two")
    for wrong in (Source("a", "t/0/1", claimed=claim), Source("a", "t/0/2", claimed=claim)):
        with pytest.raises(EventError) as hashed:
            await recordings.digest_of(wrong)
        with pytest.raises(EventError) as heard:
            await _samples(recordings, wrong, claim)
        assert hashed.value.reason == heard.value.reason == Reason.DIGEST_MISMATCH
        assert not isinstance(heard.value, RecordingChangedError)


async def test_bytes_that_no_longer_fit_our_own_hash_count_as_they_are_now(
    places: Places, recordings: Recordings
) -> None:
    source = Source("a", "t/0/1")
    with pytest.raises(RecordingChangedError) as caught:
        await _samples(recordings, source, _digest(b"before"))
    assert caught.value.digest == _digest(b"one")
    await _samples(recordings, source, caught.value.digest)
    assert places.fetched == ["a"]


async def test_a_passing_failure_is_tried_again(places: Places, recordings: Recordings) -> None:
    places.failures = [TransientError(Reason.FETCH_FAILED, "later", retry_after_seconds=0.0)]
    assert await recordings.digest_of(Source("a", "t/0/1")) == _digest(b"one")
    assert len(places.fetched) == 2


async def test_a_failure_for_good_is_not_tried_again(places: Places, recordings: Recordings) -> None:
    places.failures = [EventError(Reason.NOT_FOUND, "gone")]
    with pytest.raises(EventError, match="gone"):
        await recordings.digest_of(Source("a", "t/0/1"))
    assert len(places.fetched) == 1


async def test_bytes_at_fault_are_told_as_such(places: Places, recordings: Recordings) -> None:
    places.bytes_at["bad"] = b"bad bytes"
    with pytest.raises(RecordingError):
        await _samples(recordings, Source("bad", "t/0/1"), _digest(b"bad bytes"))


async def test_the_spool_is_free_again_when_the_samples_are_left(places: Places, recordings: Recordings) -> None:
    digest = _digest(b"one")
    async with recordings.samples(Source("a", "t/0/1"), digest):
        assert places.spool._entries[digest].leases == 1
    assert places.spool._entries[digest].leases == 0


def test_an_address_is_checked_before_anything_is_done(recordings: Recordings) -> None:
    with pytest.raises(EventError) as caught:
        recordings.check("elsewhere")
    assert caught.value.reason == Reason.URI_NOT_ALLOWED
