"""Finds recordings in folders."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from producer.errors import PublishError

SUFFIXES = frozenset(
    {".3gp", ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".mp4", ".oga", ".ogg"}
    | {".opus", ".wav", ".webm", ".wma"}
)
"""What counts as a recording in a folder; a file named by itself may have any name."""
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_address(source: str) -> bool:
    """Whether this is an address (``https://``, ``s3://``, ``file://``, ...) rather than a path."""
    return _ADDRESS.match(source) is not None


def recordings(sources: Iterable[str]) -> Iterator[str]:
    """Addresses and files as they are, folders as the recordings in them (sorted, hidden ones left out).

    Raises PublishError for a path that does not exist and for a folder without recordings.
    """
    for source in sources:
        if is_address(source) or Path(source).is_file():
            yield source
        elif Path(source).is_dir():
            found = False
            for found_path in _walk(Path(source)):
                found = True
                yield str(found_path)
            if not found:
                raise PublishError(f"{source}: no recordings in this folder (looked for {' '.join(sorted(SUFFIXES))})")
        else:
            raise PublishError(f"{source}: no such file or folder")


def _walk(top: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(top, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder) / name


def _refuse(error: OSError) -> None:
    raise PublishError(f"{error.filename}: {error.strerror}") from error
