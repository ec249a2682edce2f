"""Manifests: one JSON object a line, each an audio event that wants publishing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from producer.errors import ManifestError
from schemas.models import AudioEvent

FIELDS = frozenset(AudioEvent.model_fields) - {"uri", "schema_version", "published_at"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recording to publish: its path or address, and the other arguments of ``Publisher.publish``."""

    source: str
    fields: dict[str, Any] = field(default_factory=dict)


def read_manifest(lines: Iterable[bytes], name: str = "manifest") -> Iterator[Wanted]:
    """The events of a manifest, in order; empty lines are passed over.

    Fields are those of an AudioEvent: ``uri`` is required and may also be a path, ``event_id`` may be absent,
    ``published_at`` becomes the time of publishing. Raises ManifestError with the line's number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ManifestError(f"{name}:{number}: not JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("uri"), str):
            raise ManifestError(f"{name}:{number}: not an object with a `uri`")
        version = data.get("schema_version", 1)
        if version != 1:
            raise ManifestError(f"{name}:{number}: schema_version {version!r} is not 1")
        yield Wanted(data["uri"], {key: value for key, value in data.items() if key in FIELDS})
