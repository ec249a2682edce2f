"""From an address to bytes in the spool: allowed, bounded, hashed on the way, never whole in memory."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import httpx2
from obstore.store import ObjectStore

from consumer.audio.allow import Address, AllowList
from consumer.audio.sources import (
    CONNECT_TIMEOUT_SECONDS,
    bucket_store,
    from_bucket,
    from_file,
    from_web,
    too_large,
)
from consumer.audio.spool import Fetched, Part, Spool
from consumer.errors import EventError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason


class Fetcher:
    """Fetches recordings, a bounded number at once. One try each: retries are the caller's.

    Raises ServiceError for a ``fetch_allow`` that cannot be used.
    """

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._spool = spool
        self._allow = AllowList(settings.fetch_allow)
        self._limit_bytes = settings.max_audio_bytes
        self._timeout_seconds = settings.fetch_timeout_seconds
        self._slots = asyncio.Semaphore(settings.fetch_concurrency)
        self._stores: dict[tuple[str, str], ObjectStore] = {}
        # the client logs whole addresses at INFO, and queries may be signatures
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(self._timeout_seconds, connect=min(self._timeout_seconds, CONNECT_TIMEOUT_SECONDS)),
            limits=httpx2.Limits(max_connections=settings.fetch_concurrency),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # fetches know nothing of each other
        )

    def check(self, uri: str) -> Address:
        """The address, if it may be fetched. Raises EventError ``uri_not_allowed``."""
        return self._allow.check(uri)

    @contextlib.asynccontextmanager
    async def fetch(self, uri: str) -> AsyncIterator[Fetched]:
        """The recording at an address, leased for the length of the block.

        Waits for a free slot and for room in the spool; ``fetch_timeout_seconds`` counts from then.
        Raises EventError: ``uri_not_allowed``, ``not_found``, ``not_a_file``, ``access_denied``, ``too_large``,
        ``empty``, ``fetch_failed``; TransientError: ``fetch_timeout``, ``fetch_failed``.
        """
        with contextlib.ExitStack() as held:
            async with self._slots:
                await self._spool.admit()
                fetched = await self._into_spool(uri, held)
            yield fetched

    async def close(self) -> None:
        """Close connections; fetches must have ended."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await self.close()

    async def _into_spool(self, uri: str, held: contextlib.ExitStack) -> Fetched:
        with self._spool.part() as part:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._download(uri, part)
            except TimeoutError as error:
                detail = f"the fetch took longer than {self._timeout_seconds:g} s"
                raise TransientError(Reason.FETCH_TIMEOUT, detail) from error
            if part.size_bytes == 0:
                raise EventError(Reason.EMPTY, "there are no bytes at the address; publish the event after its upload")
            # leased before the part's block ends: the spool might evict it else
            fetched = held.enter_context(self._spool.lease(self._spool.keep(part)))
        if fetched is None:
            raise RuntimeError("a recording just kept is not in the spool: this is a bug")
        return fetched

    async def _download(self, uri: str, part: Part) -> None:
        async with contextlib.aclosing(self._chunks(uri)) as chunks:
            async for chunk in chunks:
                if part.size_bytes + len(chunk) > self._limit_bytes:
                    raise too_large("the recording", self._limit_bytes)
                await asyncio.to_thread(part.write, chunk)

    def _chunks(self, uri: str) -> AsyncGenerator[bytes, None]:
        scheme = uri.partition("://")[0].lower()
        if scheme == "file":
            return from_file(self._allow, uri)
        if scheme in ("http", "https"):
            return from_web(self._client, self._allow, uri, self._limit_bytes)
        address = self._allow.check(uri)
        return from_bucket(self._store(address), address, self._limit_bytes)

    def _store(self, address: Address) -> ObjectStore:
        key = (address.scheme, address.authority)
        if key not in self._stores:
            self._stores[key] = bucket_store(address, self._timeout_seconds)
        return self._stores[key]
