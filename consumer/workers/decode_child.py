"""The decode child: one recording at a time from a file to a file, inside limits of its own."""

import os
import resource
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from consumer.workers.channel import Frame
from consumer.workers.child import Handler, serve

ADDRESS_SPACE_BYTES = 8 * 1024**3
FILE_SLACK_BYTES = 64 * 1024 * 1024


def setup(init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    """Warm librosa, then take requests ``{path, out_path}``; answers are DecodeResults."""
    _let_numba_cache(Path(init["cache_dir"]))
    from consumer.audio.decode import decode_file, warm
    from consumer.core.model import SAMPLE_BYTES, SAMPLE_RATE

    max_seconds = float(init["max_seconds"])
    warm()
    _limit(resource.RLIMIT_AS, ADDRESS_SPACE_BYTES)
    _limit(resource.RLIMIT_FSIZE, int(max_seconds * SAMPLE_RATE * SAMPLE_BYTES) + FILE_SLACK_BYTES)
    _limit(resource.RLIMIT_CORE, 0)

    def handle(request: dict[str, Any], _payload: bytes) -> Frame:
        return asdict(decode_file(Path(request["path"]), Path(request["out_path"]), max_seconds=max_seconds)), b""

    return {}, Handler(handle)


def _let_numba_cache(folder: Path) -> None:
    """librosa's compiled loops are kept beside librosa; where that cannot be written, importing it would fail."""
    librosa = find_spec("librosa")
    if librosa is not None and librosa.origin is not None and not os.access(Path(librosa.origin).parent, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder.absolute()))


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    serve(setup)
