"""A fetcher with a spool of its own, for tests."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.audio.fetch import Fetcher
from consumer.audio.spool import Spool
from consumer.errors import EventError
from consumer.settings import Settings

LIMIT_BYTES = 4 * 1024 * 1024


@contextlib.asynccontextmanager
async def fetching(tmp_path: Path, *allow: str, **more: Any) -> AsyncIterator[Fetcher]:
    """A fetcher with a spool of its own that must hold nothing but whole recordings at the end."""
    settings = Settings(fetch_allow=list(allow), **{"max_audio_bytes": LIMIT_BYTES, **more})
    spool = Spool(tmp_path / "spool", settings.spool_bytes)
    spool.open()
    try:
        async with Fetcher(settings, spool) as fetcher:
            yield fetcher
        assert not list((tmp_path / "spool").glob("*.part"))
    finally:
        spool.close()


async def refusal(fetcher: Fetcher, uri: str) -> EventError:
    with pytest.raises(EventError) as raised:
        async with fetcher.fetch(uri):
            pass
    return raised.value
