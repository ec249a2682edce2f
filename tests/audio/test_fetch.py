import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from consumer.audio.allow import AllowList
from consumer.audio.fetch import Fetcher
from consumer.audio.sources import MOST_REDIRECTS, from_file, retry_after_seconds
from consumer.errors import EventError, TransientError
from schemas.codes import Reason
from schemas.models import utc_now
from tests.audio.fetching import LIMIT_BYTES, fetching, refusal
from tests.audio.web import Web, answer, endless


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


async def test_a_file_is_copied_and_hashed(tmp_path: Path, folder: Path) -> None:
    data = os.urandom(3_000_000)
    (folder / "a b.wav").write_bytes(data)
    uri = (folder / "a b.wav").as_uri()
    async with fetching(tmp_path, f"file://{folder}/") as fetcher, fetcher.fetch(uri) as fetched:
        assert fetched.digest == hashlib.sha256(data).hexdigest()
        assert fetched.size_bytes == len(data)
        assert fetched.path.read_bytes() == data


async def test_a_file_whose_name_is_no_utf8_is_fetched_and_can_be_spoken_of(tmp_path: Path, folder: Path) -> None:
    named = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    named.write_bytes(b"sound")
    async with fetching(tmp_path, f"file://{folder}/") as fetcher:
        async with fetcher.fetch(named.as_uri()) as fetched:
            assert fetched.path.read_bytes() == b"sound"
        missing = await refusal(fetcher, f"file://{folder}/th%E9.wav")
    assert missing.reason is Reason.NOT_FOUND
    assert b"th\\udce9.wav does not exist" in missing.detail.encode()


async def test_what_is_no_readable_file_is_refused_each_with_its_reason(tmp_path: Path, folder: Path) -> None:
    (folder / "empty.wav").touch()
    os.mkfifo(folder / "pipe.wav")
    (folder / "large.wav").write_bytes(b"\0" * (LIMIT_BYTES + 1))
    (folder / "out.wav").symlink_to("/etc/hostname")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    expected = {
        "missing.wav": Reason.NOT_FOUND,
        "empty.wav/beneath.wav": Reason.NOT_FOUND,
        "loop.wav": Reason.NOT_FOUND,
        "x" * 5000: Reason.NOT_FOUND,
        "empty.wav": Reason.EMPTY,
        "": Reason.NOT_A_FILE,
        "pipe.wav": Reason.NOT_A_FILE,
        "large.wav": Reason.TOO_LARGE,
        "out.wav": Reason.URI_NOT_ALLOWED,
    }
    async with fetching(tmp_path, f"file://{folder}/") as fetcher:
        for name, reason in expected.items():
            refused = await refusal(fetcher, f"file://{folder}/{name}")
            assert (refused.reason, refused.retriable) == (reason, False), name


@pytest.fixture
def _nobody() -> Iterator[None]:
    """Root may read everything, so a root's test run is nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


async def test_a_file_that_may_not_be_read_is_access_denied(folder: Path, request: pytest.FixtureRequest) -> None:
    (folder / "a.wav").write_bytes(b"a")
    (folder / "a.wav").chmod(0)
    request.getfixturevalue("_nobody")
    with pytest.raises(EventError) as refused:
        await anext(from_file(AllowList([f"file://{folder}/"]), f"file://{folder}/a.wav"))
    assert refused.value.reason is Reason.ACCESS_DENIED


async def test_a_web_address_is_streamed_and_hashed(tmp_path: Path, web: Web) -> None:
    data = os.urandom(3_000_000)
    uri = web.add("/a.wav", answer(200, data))
    async with fetching(tmp_path, web.origin) as fetcher, fetcher.fetch(uri) as one, fetcher.fetch(uri) as other:
        assert one == other
        assert one.digest == hashlib.sha256(data).hexdigest()
        assert one.path.stat().st_size == len(data)


@pytest.mark.parametrize(
    ("status", "reason", "retriable"),
    [
        (400, Reason.FETCH_FAILED, False),
        (401, Reason.ACCESS_DENIED, False),
        (403, Reason.ACCESS_DENIED, False),
        (404, Reason.NOT_FOUND, False),
        (410, Reason.NOT_FOUND, False),
        (408, Reason.FETCH_FAILED, True),
        (429, Reason.FETCH_FAILED, True),
        (500, Reason.FETCH_FAILED, True),
        (503, Reason.FETCH_FAILED, True),
        (304, Reason.FETCH_FAILED, False),
    ],
)
async def test_each_refusal_of_a_web_server_has_its_reason(
    tmp_path: Path, web: Web, status: int, reason: Reason, retriable: bool
) -> None:
    uri = web.add("/a.wav", answer(status, b"" if status == 304 else b"sorry", retry_after="7"))
    async with fetching(tmp_path, web.origin) as fetcher:
        refused = await refusal(fetcher, f"{uri}?signature=hush")
    assert (refused.reason, refused.retriable) == (reason, retriable)
    assert "hush" not in refused.detail
    if isinstance(refused, TransientError):
        assert refused.retry_after_seconds == 7.0


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    now = utc_now().replace(microsecond=0)
    assert retry_after_seconds("120", now) == 120.0
    assert retry_after_seconds(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90.0
    assert retry_after_seconds(format_datetime(now - timedelta(seconds=90), usegmt=True), now) == 0.0
    assert retry_after_seconds("soon", now) is None
    assert retry_after_seconds(None, now) is None


async def test_a_body_that_dribbles_is_given_up_after_its_wall_time(tmp_path: Path, web: Web) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"
    uri = web.add("/slow.wav", endless(head, pause_seconds=0.01))
    async with fetching(tmp_path, web.origin, fetch_timeout_seconds=0.3) as fetcher:
        refused = await refusal(fetcher, uri)
    assert (refused.reason, refused.retriable) == (Reason.FETCH_TIMEOUT, True)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
    ],
    ids=["no content-length", "an honest one"],
)
async def test_a_body_above_the_limit_is_stopped_at_the_limit(tmp_path: Path, web: Web, head: bytes) -> None:
    uri = web.add("/huge.wav", endless(head))
    async with fetching(tmp_path, web.origin) as fetcher:
        refused = await refusal(fetcher, uri)
    assert (refused.reason, refused.retriable) == (Reason.TOO_LARGE, False)


async def test_a_body_shorter_than_promised_may_do_better_next_time(tmp_path: Path, web: Web) -> None:
    uri = web.add("/cut.wav", answer(200, b"half", content_length="8"))
    async with fetching(tmp_path, web.origin) as fetcher:
        refused = await refusal(fetcher, uri)
    assert (refused.reason, refused.retriable) == (Reason.FETCH_FAILED, True)


async def test_an_empty_body_is_empty_and_a_compressed_one_is_not_taken_for_audio(tmp_path: Path, web: Web) -> None:
    empty = web.add("/empty.wav", answer(200))
    zipped = web.add("/zipped.wav", answer(200, b"\x1f\x8b", content_encoding="gzip"))
    async with fetching(tmp_path, web.origin) as fetcher:
        assert (await refusal(fetcher, empty)).reason is Reason.EMPTY
        assert (await refusal(fetcher, zipped)).reason is Reason.FETCH_FAILED


async def test_a_server_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with fetching(tmp_path, origin) as fetcher:
        refused = await refusal(fetcher, f"{origin}/a.wav?signature=hush")
    assert (refused.reason, refused.retriable) == (Reason.FETCH_FAILED, True)
    assert "hush" not in refused.detail


async def test_redirects_are_followed_only_inside_the_allow_list(tmp_path: Path, web: Web) -> None:
    web.add("/pub/a.wav", answer(200, b"sound"))
    inside = web.add("/pub/in", answer(302, location="/pub/a.wav"))
    outside = web.add("/pub/out", answer(307, location="/private/a.wav"))
    file = web.add("/pub/file", answer(301, location="file:///etc/hostname"))
    away = web.add("/pub/away", answer(302, location=f"http://localhost:{web.port}/pub/a.wav"))
    async with fetching(tmp_path, f"{web.origin}/pub/", "file:///etc/") as fetcher:
        async with fetcher.fetch(inside) as fetched:
            assert fetched.path.read_bytes() == b"sound"
        for uri in (outside, away, file):
            assert (await refusal(fetcher, uri)).reason is Reason.URI_NOT_ALLOWED
    assert not any("/private" in line for line in web.asked)


async def test_redirects_that_go_in_circles_end(tmp_path: Path, web: Web) -> None:
    uri = web.add("/circle", answer(302, location="/circle"))
    async with fetching(tmp_path, web.origin) as fetcher:
        refused = await refusal(fetcher, uri)
    assert (refused.reason, refused.retriable) == (Reason.FETCH_FAILED, False)
    assert len(web.asked) == MOST_REDIRECTS + 1


async def test_signatures_in_addresses_stay_out_of_the_log(
    tmp_path: Path, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    uri = web.add("/a.wav", answer(200, b"sound"))
    with caplog.at_level(logging.INFO):
        async with fetching(tmp_path, web.origin) as fetcher, fetcher.fetch(f"{uri}?signature=hush"):
            pass
    assert "hush" not in caplog.text


async def test_no_more_than_the_allowed_number_of_fetches_run_at_once(tmp_path: Path, web: Web) -> None:
    gate, inside, most = asyncio.Event(), 0, 0

    async def counted(writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 2:
            gate.set()
        await gate.wait()
        await answer(200, os.urandom(16))(writer)
        inside -= 1

    uri = web.add("/a.wav", counted)

    async def fetch(fetcher: Fetcher) -> None:
        async with fetcher.fetch(uri):
            pass

    async with fetching(tmp_path, web.origin, fetch_concurrency=2) as fetcher:
        await asyncio.wait_for(asyncio.gather(*(fetch(fetcher) for _ in range(8))), 30)
    assert most == 2


async def test_a_cancelled_fetch_leaves_nothing(tmp_path: Path, web: Web) -> None:
    started = asyncio.Event()

    async def stuck(writer: asyncio.StreamWriter) -> None:
        started.set()
        await asyncio.sleep(3600)

    uri = web.add("/stuck.wav", stuck)
    async with fetching(tmp_path, web.origin, fetch_concurrency=1) as fetcher:
        task = asyncio.create_task(refusal(fetcher, uri))
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ok = web.add("/ok.wav", answer(200, b"sound"))
        async with fetcher.fetch(ok):  # the only slot is free again
            pass
