import os
from pathlib import Path

import pytest

from consumer.audio.allow import AllowList
from consumer.errors import EventError, ServiceError
from schemas.codes import Reason


def refused(allow: AllowList, uri: str) -> str:
    with pytest.raises(EventError) as refusal:
        allow.check(uri)
    assert refusal.value.reason is Reason.URI_NOT_ALLOWED
    return refusal.value.detail


WEB = AllowList(["https://media.example", "https://files.example:8443/audio", "http://[::1]:8080/"])


@pytest.mark.parametrize(
    "uri",
    [
        "https://media.example/a.wav",
        "https://media.example",
        "HTTPS://MEDIA.example/a.wav?signature=1",
        "https://media.example:443/a.wav",
        "https://media.example./a.wav",
        "https://media.example/a%20b%2Fc.wav",
        "https://media.example/..a/b..",
        "https://files.example:8443/audio/1.wav",
        "https://files.example:8443/audio",
        "http://[::1]:8080/x",
    ],
)
def test_an_address_under_a_prefix_is_allowed(uri: str) -> None:
    WEB.check(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://media.example.evil/a.wav",
        "https://media.example@evil.example/a.wav",
        "https://media.example:443@evil.example/a.wav",
        "https://user:secret@media.example/a.wav",
        "https://media.example\\@evil.example/a.wav",
        "https://evil.example/https://media.example/",
        "https://evil.example#https://media.example/",
        "https://media.example:444/a.wav",
        "http://media.example/a.wav",
        "https://files.example:8443/audiobooks/1.wav",
        "https://files.example:8443/audio/../private/1.wav",
        "https://files.example:8443/audio/%2e%2e/private/1.wav",
        "https://files.example:8443/audio/%252e%252e/private/1.wav",
        "https://files.example:8443/audio/..%2fprivate/1.wav",
        "https://files.example:8443/audio/..;/private/1.wav",
        "https://files.example:8443/audio/..%5cprivate/1.wav",
        "https://files.example:8443/%61udio/1.wav",
        "https://media.example/a\r\nHost: evil.example",
        "https://",
        "https:///a.wav",
        "https://media.example:port/",
        "ftp://media.example/a.wav",
        "media.example/a.wav",
        "gopher://media.example",
        "",
    ],
)
def test_an_address_that_only_looks_like_it_is_refused(uri: str) -> None:
    refused(WEB, uri)


def test_a_refusal_shows_neither_query_nor_user() -> None:
    detail = refused(WEB, "https://evil.example/a.wav?signature=hush") + refused(WEB, "https://me:hush@media.example/")
    assert "evil.example/a.wav" in detail
    assert "hush" not in detail


def test_files_are_judged_by_where_they_really_are(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "database"
    data.mkdir()
    other.mkdir()
    (data / "in.wav").touch()
    (other / "secret.wav").touch()
    (data / "link.wav").symlink_to(other / "secret.wav")
    (data / "folder").symlink_to(other)
    (tmp_path / "alias").symlink_to(data)
    allow = AllowList([f"file://{data}"])
    assert allow.check(f"file://{data}/in.wav").path == str(data / "in.wav")
    assert allow.check(f"file://localhost{tmp_path}/alias/i%6E.wav").path == str(data / "in.wav")
    AllowList([f"file://{tmp_path}/alias/"]).check(f"file://{data}/in.wav")
    for path in ("database/secret.wav", "data/link.wav", "data/folder/secret.wav", "data/../database/secret.wav"):
        refused(allow, f"file://{tmp_path}/{path}")
    refused(allow, f"file://{data}/%2e%2e/database/secret.wav")
    refused(allow, f"file://evil.example{data}/in.wav")
    refused(allow, "file://in.wav")
    refused(allow, f"file://{data}/in.wav%00")


def test_a_name_that_is_no_utf8_is_the_name_that_it_is(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "database"
    data.mkdir()
    other.mkdir()
    named = Path(os.fsdecode(os.fsencode(data) + b"/caf\xe9.wav"))
    named.touch()
    (data / "caf\ufffd.wav").symlink_to(other)
    allow = AllowList([f"file://{data}"])
    address = allow.check(f"file://{data}/caf%E9.wav")
    assert address.path == str(named)
    assert address.shown.encode() == f"file://{data}/caf\\udce9.wav".encode()
    assert AllowList([named.as_uri()]).covers(address)
    for path in ("data/%E9%2f..%2f..%2fdatabase/%E9.wav", "data/%E9/../../database", "database/caf%E9.wav"):
        assert refused(allow, f"file://{tmp_path}/{path}").encode()
    for odd in ("data/%E9%00", "data/\ud800.wav"):
        assert refused(allow, f"file://{tmp_path}/{odd}").encode()
    assert refused(allow, f"file://{other}/caf\udce9.wav").encode()


def test_buckets_are_compared_whole() -> None:
    allow = AllowList(["s3://speech", "gs://speech/calls/", "az://box"])
    allow.check("s3://speech/a b#1?.wav")
    allow.check("gs://speech/calls/1.wav")
    allow.check("az://box/x")
    for uri in ("s3://speech-evil/a", "gs://speech/callsign/1.wav", "s3://speech/../other/a", "s3://", "az://me@box/x"):
        refused(allow, uri)


def test_nothing_is_allowed_unless_someone_said_so(tmp_path: Path) -> None:
    refused(AllowList([]), f"file://{tmp_path}/a.wav")


@pytest.mark.parametrize("prefix", ["media.example", "https://", "/data", "ftp://x", "https://u:p@media.example"])
def test_a_prefix_that_means_nothing_stops_the_service(prefix: str) -> None:
    with pytest.raises(ServiceError, match="fetch_allow"):
        AllowList([prefix])
