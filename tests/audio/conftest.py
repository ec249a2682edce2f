from collections.abc import AsyncIterator

import pytest

from tests.audio.web import Web, web_server


@pytest.fixture
async def web(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with web_server() as web:
        yield web
