"""An event's address to bytes that are what they claim to be, and to samples; fetched once while they are at hand."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from consumer.audio.spool import Fetched, Spool
from consumer.core.backoff import RetryPolicy
from consumer.core.model import SAMPLE_BYTES, SAMPLE_RATE, Recording
from consumer.errors import EventError, TransientError
from consumer.retrying import T, retrying
from consumer.telemetry.calls import try_failed
from schemas.codes import Reason

_REMEMBERED_FETCHES = 10_000


class Fetches(Protocol):
    """Addresses to bytes in the spool."""

    def check(self, uri: str) -> object: ...

    def fetch(self, uri: str) -> AbstractAsyncContextManager[Fetched]: ...


class Decodes(Protocol):
    """Bytes in the spool to samples in the spool."""

    async def decode(self, fetched: Fetched) -> Recording: ...


class RecordingChangedError(EventError):
    """The bytes at the address are not those that this service hashed before; ``digest`` is the new one."""

    def __init__(self, digest: str) -> None:
        super().__init__(Reason.DIGEST_MISMATCH, "the recording changed at its address; publish it again")
        self.digest = digest


@dataclass(slots=True)
class Source:
    """Where an event's bytes come from, and how long getting them took."""

    uri: str
    origin: str
    """The event's first record: what was hashed for it here may be taken from the spool."""
    deadline: float | None = None
    fetch_seconds: float | None = None
    decode_seconds: float | None = None
    claimed: str | None = field(default=None)
    """The digest that the sender claims."""


class Recordings:
    """Fetching, hashing and decoding, with the retries that fetching deserves."""

    def __init__(
        self,
        spool: Spool,
        fetches: Fetches,
        decodes: Decodes,
        *,
        attempts: int,
        samples_limit_bytes: int,
        decodes_at_once: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``samples_limit_bytes``: decoded samples under way; passed at most by what is being decoded just then."""
        self._spool = spool
        self._fetches = fetches
        self._decodes = decodes
        self._policy = RetryPolicy(attempts=attempts)
        self._clock = clock
        self._samples_limit_bytes = samples_limit_bytes
        self._samples_bytes = 0
        self._decoding = asyncio.Semaphore(decodes_at_once)
        self._room = asyncio.Event()
        self._hashed: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    @property
    def audio_seconds_in_flight(self) -> float:
        """Decoded audio that somebody works on."""
        return self._samples_bytes / (SAMPLE_BYTES * SAMPLE_RATE)

    def check(self, uri: str) -> None:
        """Raises EventError ``uri_not_allowed``."""
        self._fetches.check(uri)

    async def digest_of(self, source: Source) -> str:
        """Fetch and hash. Raises EventError (``digest_mismatch`` against a claim, or whatever fetching ends with)."""
        async with self._fetch(source) as fetched:
            self._demand_claim(source, fetched.digest)
            self._remember(source, fetched.digest)
            return fetched.digest

    @asynccontextmanager
    async def samples(self, source: Source, digest: str) -> AsyncIterator[Recording]:
        """The decoded recording of that digest, held for the length of the block.

        Raises EventError: ``digest_mismatch``, or whatever fetching ends with; RecordingChangedError when no claim but
        our own hash is contradicted; RecordingError when the bytes cannot be decoded.
        """
        async with self._bytes(source, digest) as fetched:
            recording = await self._decode(source, fetched)
            try:
                yield recording
            finally:
                self._samples_bytes -= recording.samples * SAMPLE_BYTES
                self._room.set()

    async def _decode(self, source: Source, fetched: Fetched) -> Recording:
        started = self._clock()  # waiting for a decoder is part of it: an event's stages leave no time out
        async with self._decoding:
            # a small file can hold hours: its size on disk says nothing of its samples
            while self._samples_bytes >= self._samples_limit_bytes:
                self._room.clear()
                await self._room.wait()
            recording = await self._trying("decode", partial(self._decodes.decode, fetched), source)
            source.decode_seconds = self._clock() - started
            self._samples_bytes += recording.samples * SAMPLE_BYTES
            return recording

    @asynccontextmanager
    async def _bytes(self, source: Source, digest: str) -> AsyncIterator[Fetched]:
        # Only what was hashed for this very event: knowing a digest is not owning a recording.
        if (source.origin, source.uri, digest) in self._hashed:
            with self._spool.lease(digest) as held:
                if held is not None:
                    yield held
                    return
        async with self._fetch(source) as fetched:
            self._demand_claim(source, fetched.digest)
            if fetched.digest != digest:
                self._remember(source, fetched.digest)
                raise RecordingChangedError(fetched.digest)
            yield fetched

    @asynccontextmanager
    async def _fetch(self, source: Source) -> AsyncIterator[Fetched]:
        started = self._clock()
        opened = await self._trying("fetch", self._opener(source.uri), source)
        source.fetch_seconds = self._clock() - started
        async with _Entered(*opened) as fetched:
            yield fetched

    async def _trying(self, stage: str, call: Callable[[], Awaitable[T]], source: Source) -> T:
        def told(error: TransientError, _tries: int, _wait_seconds: float) -> None:
            try_failed(stage, error.reason.value)

        return await retrying(call, self._policy, deadline=source.deadline, on_retry=told, clock=self._clock)

    def _opener(self, uri: str) -> Callable[[], Awaitable[tuple[AbstractAsyncContextManager[Fetched], Fetched]]]:
        async def attempt() -> tuple[AbstractAsyncContextManager[Fetched], Fetched]:
            fetching = self._fetches.fetch(uri)
            return fetching, await fetching.__aenter__()

        return attempt

    def _demand_claim(self, source: Source, digest: str) -> None:
        if source.claimed is not None and digest != source.claimed:
            detail = f"the bytes have the digest {digest}, the event claims {source.claimed}; publish the true one"
            raise EventError(Reason.DIGEST_MISMATCH, detail)

    def _remember(self, source: Source, digest: str) -> None:
        self._hashed[source.origin, source.uri, digest] = None
        while len(self._hashed) > _REMEMBERED_FETCHES:
            self._hashed.popitem(last=False)


class _Entered:
    """A context that was entered inside a retry, and is left at the end of its block."""

    def __init__(self, context: AbstractAsyncContextManager[Fetched], fetched: Fetched) -> None:
        self._context = context
        self._fetched = fetched

    async def __aenter__(self) -> Fetched:
        return self._fetched

    async def __aexit__(self, *error: object) -> None:
        await self._context.__aexit__(*error)  # type: ignore[arg-type]
