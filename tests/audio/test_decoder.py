import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.audio.decoder import DecoderPool
from consumer.audio.spool import Fetched, Spool
from consumer.core.hearing import PCM_TYPE, to_pcm
from consumer.core.model import SAMPLE_RATE
from consumer.errors import RecordingError, TransientError
from consumer.settings import Settings
from schemas.codes import Reason
from tests.support.audio_files import SPEECH, speech

SCRIPTED = {"module": "tests.support.scripted_decoder"}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", 1 << 30)
    spool.open()
    yield spool
    spool.close()


@contextlib.asynccontextmanager
async def decoding(spool: Spool, module: dict[str, str] | None = None, **more: Any) -> AsyncIterator[DecoderPool]:
    pool = DecoderPool(Settings(decode_workers=2, **more), spool, **(module or {}))
    try:
        await pool.start()
        yield pool
    finally:
        await pool.stop()


@contextlib.contextmanager
def fetched(spool: Spool, content: bytes) -> Iterator[Fetched]:
    with contextlib.ExitStack() as held:
        with spool.part() as part:
            part.write(content)
            recording = held.enter_context(spool.lease(spool.keep(part)))
        assert recording is not None
        yield recording


def left(spool_folder: Path) -> list[Path]:
    return list(spool_folder.glob("*.part"))


async def test_a_recording_comes_out_as_its_samples(spool: Spool, tmp_path: Path) -> None:
    async with decoding(spool) as pool:
        with fetched(spool, (SPEECH / "austen-0870.flac").read_bytes()) as recording:
            heard = await pool.decode(recording)
            assert heard.digest == recording.digest
            assert heard.samples == len(speech())
            assert heard.audio_seconds == len(speech()) / SAMPLE_RATE
            np.testing.assert_array_equal(np.fromfile(heard.pcm_path, PCM_TYPE), to_pcm(speech()))
            assert await pool.decode(recording) == heard
        assert left(tmp_path / "spool") == []
        assert all(child.state == "ready" and child.restarts == 0 for child in pool.children)


async def test_what_the_bytes_are_guilty_of_arrives_with_its_reason(spool: Spool, tmp_path: Path) -> None:
    async with decoding(spool, max_audio_seconds=3.0) as pool:
        for content, reason in (
            (b"no recording at all", Reason.UNSUPPORTED_FORMAT),
            ((SPEECH / "austen-0870.flac").read_bytes(), Reason.TOO_LONG),
        ):
            with fetched(spool, content) as recording, pytest.raises(RecordingError) as refused:
                await pool.decode(recording)
            assert refused.value.reason is reason
        assert left(tmp_path / "spool") == []


async def test_a_recording_that_takes_too_long_costs_only_its_own_decoder(spool: Spool, tmp_path: Path) -> None:
    async with decoding(spool, SCRIPTED, decode_timeout_seconds=2.0) as pool:
        with fetched(spool, b"hang") as recording, pytest.raises(RecordingError) as refused:
            await pool.decode(recording)
        assert refused.value.reason is Reason.DECODE_LIMIT
        with fetched(spool, b"fine") as recording:
            assert (await pool.decode(recording)).samples == 16
        assert left(tmp_path / "spool") == []


async def test_a_decoder_that_crashes_once_is_forgiven(spool: Spool, tmp_path: Path) -> None:
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, f"crash-once {tmp_path / 'mark'}".encode()) as recording:
            assert (await pool.decode(recording)).samples == 16


async def test_a_recording_that_ends_two_decoders_is_poison(spool: Spool) -> None:
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, b"crash") as recording, pytest.raises(RecordingError, match="SIGSEGV") as refused:
            await pool.decode(recording)
        assert refused.value.reason is Reason.POISON
        with fetched(spool, b"fine") as recording:
            assert (await pool.decode(recording)).samples == 16


@pytest.mark.parametrize(("order", "reason"), [(b"swell", Reason.DECODE_LIMIT), (b"bug", Reason.CORRUPT_AUDIO)])
async def test_what_nobody_foresaw_is_held_against_the_recording(spool: Spool, order: bytes, reason: Reason) -> None:
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, order) as recording, pytest.raises(RecordingError) as refused:
            await pool.decode(recording)
    assert refused.value.reason is reason


async def test_a_short_recording_passes_a_long_one(spool: Spool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, f"wait {gate}".encode()) as long, fetched(spool, b"fine") as short:
            slow = asyncio.create_task(pool.decode(long))
            await asyncio.sleep(0)
            assert (await asyncio.wait_for(pool.decode(short), 30)).samples == 16
            assert not slow.done()
            gate.touch()
            assert (await slow).samples == 16


async def test_a_cancelled_decoding_keeps_its_decoder_until_it_is_free_again(spool: Spool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, f"wait {gate}".encode()) as long, fetched(spool, b"fine") as short:
            slow = asyncio.create_task(pool.decode(long))
            await asyncio.sleep(0)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await asyncio.wait_for(pool.decode(short), 30)).samples == 16  # not queued behind it
            gate.touch()
            assert (await pool.decode(long)).samples == 16
    assert left(tmp_path / "spool") == []


async def test_stopping_resolves_what_is_being_decoded(spool: Spool) -> None:
    async with decoding(spool, SCRIPTED) as pool:
        with fetched(spool, b"hang") as recording:
            slow = asyncio.create_task(pool.decode(recording))
            await asyncio.sleep(0)
            await pool.stop()
            with pytest.raises((TransientError, RecordingError)):
                await slow
