"""Where bytes come from: a file, a web server, a bucket. Each is a stream of chunks that ends or raises an outcome.

Details name addresses without query and user, since those may be secrets.
"""

import asyncio
import errno
import os
import re
import stat
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

import httpx2
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url

from consumer.audio.allow import Address, AllowList
from consumer.errors import EventError, TransientError
from schemas.codes import Reason
from schemas.models import utc_now

CHUNK_BYTES = 1024 * 1024
MOST_REDIRECTS = 5
CONNECT_TIMEOUT_SECONDS = 10.0
_VARIABLES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
_PASSING = {408, 425, 429}
_ENCODED = {"gzip", "x-gzip", "deflate", "compress", "br", "zstd"}


async def from_file(allow: AllowList, uri: str) -> AsyncGenerator[bytes, None]:
    """A regular file's bytes; all of its I/O happens in threads."""
    file = await asyncio.to_thread(_open_file, allow, uri)
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise TransientError(Reason.FETCH_FAILED, f"reading the file failed: {error.strerror}") from error
    finally:
        file.close()


async def from_web(
    client: httpx2.AsyncClient, allow: AllowList, uri: str, limit_bytes: int
) -> AsyncGenerator[bytes, None]:
    """A GET's body as it was stored; every redirect must be allowed too."""
    address = allow.check(uri)
    try:
        for _ in range(MOST_REDIRECTS + 1):
            async with client.stream("GET", uri, headers={"accept-encoding": "identity"}) as response:
                if response.has_redirect_location:
                    uri = str(response.url.join(response.headers["location"]))
                    address = allow.check(uri)
                    if address.scheme not in ("http", "https"):
                        raise EventError(Reason.URI_NOT_ALLOWED, f"a redirect to {address.shown} leaves the web")
                    continue
                _refuse(response, address, limit_bytes)
                async for chunk in response.aiter_raw(CHUNK_BYTES):
                    yield chunk
                return
    except httpx2.TimeoutException as error:
        raise TransientError(Reason.FETCH_TIMEOUT, f"{address.shown} gave no answer in time") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        detail = f"{address.shown}: {type(error).__name__} {_without_queries(str(error))}"
        raise TransientError(Reason.FETCH_FAILED, detail) from error
    raise EventError(Reason.FETCH_FAILED, f"{address.shown} is behind more than {MOST_REDIRECTS} redirects")


async def from_bucket(store: ObjectStore, address: Address, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """An object's bytes."""
    try:
        answer = await obstore.get_async(store, address.path[1:])
        if answer.meta["size"] > limit_bytes:
            raise too_large(address.shown, limit_bytes)
        async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)
    except FileNotFoundError as error:
        raise EventError(Reason.NOT_FOUND, f"{address.shown} does not exist") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise EventError(Reason.ACCESS_DENIED, f"{address.shown}: the credentials do not suffice") from error
    except ValueError as error:
        raise EventError(Reason.FETCH_FAILED, f"{address.shown} is not a key that the store takes: {error}") from error
    except BaseError as error:
        raise TransientError(Reason.FETCH_FAILED, f"{address.shown}: {_first_line(error)}") from error


def bucket_store(address: Address, timeout_seconds: float) -> ObjectStore:
    """The store of an address; its credentials come from the SDKs' own variables. Its retries are off: ours count."""
    try:
        return from_url(
            f"{address.scheme}://{address.authority}",
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=timeout_seconds)},
            client_options={
                "timeout": timedelta(seconds=timeout_seconds),
                "connect_timeout": timedelta(seconds=min(timeout_seconds, CONNECT_TIMEOUT_SECONDS)),
                # options given here replace those that the SDKs' variables give
                "allow_http": os.environ.get(f"{_VARIABLES[address.scheme]}_ALLOW_HTTP", "").lower() == "true",
            },
        )
    except (BaseError, ValueError) as error:
        detail = f"{address.scheme}:// cannot be used here: {_first_line(error)}; set the SDK's own variables"
        raise EventError(Reason.FETCH_FAILED, detail) from error


def too_large(shown: str, limit_bytes: int) -> EventError:
    detail = f"{shown} has more than {limit_bytes} bytes; compress it, or raise max_audio_bytes"
    return EventError(Reason.TOO_LARGE, detail)


def _open_file(allow: AllowList, uri: str) -> BinaryIO:
    address = allow.check(uri)
    try:
        # looked at before it is opened: opening a device may already do something
        _demand_regular(Path(address.path).stat().st_mode, address)
        descriptor = os.open(address.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except PermissionError as error:
        raise EventError(Reason.ACCESS_DENIED, f"{address.shown} may not be read by this service") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise EventError(Reason.NOT_FOUND, f"{address.shown} does not exist") from error
        raise TransientError(Reason.FETCH_FAILED, f"{address.shown}: {error.strerror}") from error
    file = os.fdopen(descriptor, "rb")
    try:
        # and again: a link may have been swapped in between
        _demand_regular(os.fstat(descriptor).st_mode, address)
        allow.check(Path(f"/proc/self/fd/{descriptor}").resolve().as_uri())
    except BaseException:
        file.close()
        raise
    return file


def _demand_regular(mode: int, address: Address) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise EventError(Reason.NOT_A_FILE, f"{address.shown} is {what}; publish one event for each recording's file")


def _refuse(response: httpx2.Response, address: Address, limit_bytes: int) -> None:
    status, shown = response.status_code, address.shown
    if status in (404, 410):
        raise EventError(Reason.NOT_FOUND, f"{shown} does not exist (HTTP {status})")
    if status in (401, 403):
        raise EventError(Reason.ACCESS_DENIED, f"{shown} may not be read by this service (HTTP {status})")
    if status in _PASSING or status >= 500:
        wait = retry_after_seconds(response.headers.get("retry-after"), utc_now())
        raise TransientError(Reason.FETCH_FAILED, f"{shown} answered HTTP {status}", retry_after_seconds=wait)
    if not 200 <= status < 300:
        raise EventError(Reason.FETCH_FAILED, f"{shown} answered HTTP {status}")
    if response.headers.get("content-encoding", "").strip().lower() in _ENCODED:
        raise EventError(Reason.FETCH_FAILED, f"{shown} compresses its answer though it was asked not to")
    claimed = response.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed) > limit_bytes:
        raise too_large(shown, limit_bytes)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for: seconds or a date; None if it says neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _first_line(error: Exception) -> str:
    return _without_queries((str(error).splitlines() or [""])[0])


def _without_queries(text: str) -> str:
    return re.sub(r"\?\S+", "?...", text)[:300]
