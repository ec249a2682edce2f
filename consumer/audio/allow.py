"""Which addresses may be fetched: prefixes an operator wrote, compared in a form that leaves no room for tricks."""

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import httpx2

from consumer.core.shown import encodable
from consumer.errors import EventError, ServiceError
from schemas.codes import Reason

_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True, slots=True)
class Address:
    """An address taken apart: ``authority`` is the host and port, or the bucket; ``path`` starts with a slash.

    For ``file`` the path is the real one, with symbolic links followed; as everywhere in Python, its bytes that are no
    UTF-8 are lone surrogates.
    """

    scheme: str
    authority: str
    path: str

    @property
    def shown(self) -> str:
        """For people: without query and user, which may be secrets."""
        return encodable(f"{self.scheme}://{self.authority}{self.path}")


class AllowList:
    """The settings' FETCH_ALLOW. Raises ServiceError for a prefix that names no host or bucket."""

    def __init__(self, prefixes: list[str]) -> None:
        self._prefixes = [_prefix(text) for text in prefixes]

    def check(self, uri: str) -> Address:
        """The address, if it may be fetched. Raises EventError(uri_not_allowed)."""
        address = parse(uri)
        if not self.covers(address):
            detail = f"{address.shown} is under no prefix of fetch_allow; move it, or have its prefix added"
            raise EventError(Reason.URI_NOT_ALLOWED, detail)
        return address

    def covers(self, address: Address) -> bool:
        return any(
            (prefix.scheme, prefix.authority) == (address.scheme, address.authority)
            and _under(prefix.path, address.path)
            for prefix in self._prefixes
        )


def parse(uri: str) -> Address:
    """Take an address apart. Raises EventError(uri_not_allowed) for one that could be read in two ways."""
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("file", "http", "https", "s3", "gs", "az"):
        raise EventError(Reason.URI_NOT_ALLOWED, "the address is none of file, http, https, s3, gs, az")
    if scheme == "file":
        return _file(rest)
    if scheme in _PORTS:
        return _http(uri)
    bucket, _, key = rest.partition("/")
    address = Address(scheme, bucket, f"/{key}")
    if not bucket or "@" in bucket or _climbs(address.path):
        raise _ambiguous(address)
    return address


def _file(rest: str) -> Address:
    try:
        parts = urlsplit(f"file://{rest}")
        path = os.fsdecode(unquote_to_bytes(os.fsencode(parts.path)))  # names are bytes, of whatever encoding
    except ValueError as error:
        raise EventError(Reason.URI_NOT_ALLOWED, encodable(f"not an address: {error}")) from error
    if parts.netloc.lower() not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise EventError(Reason.URI_NOT_ALLOWED, "a file address is file:///absolute/path, percent-encoded, no host")
    return Address("file", "", os.path.realpath(path))


def _http(uri: str) -> Address:
    try:
        # the very parser of the client that will follow it: two parsers could disagree about the host
        url = httpx2.URL(uri)
    except httpx2.InvalidURL as error:
        raise EventError(Reason.URI_NOT_ALLOWED, f"not an address: {error}") from error
    port = url.port or _PORTS[url.scheme]
    host = url.host.rstrip(".")
    authority = f"[{host}]" if ":" in host else host
    if port != _PORTS[url.scheme]:
        authority = f"{authority}:{port}"
    path = url.raw_path.partition(b"?")[0].decode("ascii")
    address = Address(url.scheme, authority, path)
    if url.userinfo or not host or _UNSAFE.search(uri) or _climbs(path):
        raise _ambiguous(address)
    return address


def _climbs(path: str) -> bool:
    """Whether the path steps upwards for anyone who decodes it, however often."""
    for _ in range(4):
        if _UNSAFE.search(path.replace(" ", "")) or any(part.split(";")[0] == ".." for part in path.split("/")):
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return True


def _under(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def _prefix(text: str) -> Address:
    try:
        return parse(text)
    except EventError as error:
        raise ServiceError(f"fetch_allow has a prefix that cannot be used: {error.detail}") from error


def _ambiguous(address: Address) -> EventError:
    detail = f"{address.shown} has a user, dots that climb, or odd characters; send it in its plain form"
    return EventError(Reason.URI_NOT_ALLOWED, detail)
