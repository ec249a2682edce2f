import hashlib
import os
from pathlib import Path

import pytest

from schemas.codes import Reason
from tests.audio.fetching import fetching, refusal
from tests.audio.web import Web, answer, endless


@pytest.fixture
def s3(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The web server as an S3 endpoint, found and signed to by the SDK's own variables."""
    for name, value in {
        "AWS_ENDPOINT_URL": web.origin,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    return web


async def test_an_object_in_a_bucket_is_streamed_and_hashed(tmp_path: Path, s3: Web) -> None:
    data = os.urandom(3_000_000)
    s3.add("/speech/calls/a%20b.wav", answer(200, data, last_modified="Mon, 01 Jun 2026 00:00:00 GMT", etag='"1"'))
    async with fetching(tmp_path, "s3://speech/calls/") as fetcher:
        async with fetcher.fetch("s3://speech/calls/a b.wav") as fetched:
            assert fetched.digest == hashlib.sha256(data).hexdigest()
        assert (await refusal(fetcher, "s3://other/calls/a.wav")).reason is Reason.URI_NOT_ALLOWED


@pytest.mark.parametrize(
    ("status", "reason", "retriable"),
    [
        (404, Reason.NOT_FOUND, False),
        (403, Reason.ACCESS_DENIED, False),
        (401, Reason.ACCESS_DENIED, False),
        (503, Reason.FETCH_FAILED, True),
    ],
)
async def test_each_refusal_of_a_bucket_has_its_reason(
    tmp_path: Path, s3: Web, status: int, reason: Reason, retriable: bool
) -> None:
    s3.add("/speech/a.wav", answer(status, b"<Error/>"))
    async with fetching(tmp_path, "s3://speech") as fetcher:
        refused = await refusal(fetcher, "s3://speech/a.wav")
    assert (refused.reason, refused.retriable) == (reason, retriable)
    assert "hush" not in refused.detail
    assert len(s3.asked) == 1  # no retries but the service's own


async def test_an_object_above_the_limit_is_refused_before_it_is_read(tmp_path: Path, s3: Web) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\nlast-modified: Mon, 01 Jun 2026 00:00:00 GMT\r\n\r\n"
    s3.add("/speech/a.wav", endless(head))
    async with fetching(tmp_path, "s3://speech") as fetcher:
        assert (await refusal(fetcher, "s3://speech/a.wav")).reason is Reason.TOO_LARGE


async def test_a_store_that_is_not_configured_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    async with fetching(tmp_path, "az://box") as fetcher:
        refused = await refusal(fetcher, "az://box/a.wav")
    assert refused.reason is Reason.FETCH_FAILED
    assert "Account" in refused.detail
