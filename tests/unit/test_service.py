"""How the service is put together."""

import threading
from pathlib import Path

import pytest

from consumer import service
from consumer.audio.spool import Spool
from consumer.service import hearing
from consumer.settings import Settings


class _StopError(Exception):
    """That was all that is wanted."""


async def test_certificates_are_not_loaded_on_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_in = list[threading.Thread]()

    def make(settings: Settings, spool: Spool) -> None:
        assert (settings.engine, spool.used_bytes) == ("simulated", 0)
        made_in.append(threading.current_thread())
        raise _StopError

    monkeypatch.setattr(service, "Fetcher", make)
    with pytest.raises(_StopError):
        async with hearing(Settings(engine="simulated", state_dir=tmp_path)):
            pass
    assert made_in
    assert threading.main_thread() not in made_in
