"""The demo's recordings: what they are, and that their bytes stay."""

from pathlib import Path

import pytest

from compose.demo_recordings import takes
from consumer.audio.decode import decode_file
from consumer.errors import RecordingError
from producer.publisher import file_digest
from schemas.codes import Reason


def test_recordings_are_made_once_and_keep_their_bytes(tmp_path: Path) -> None:
    first = {take.name: file_digest(take.path) for take in takes(tmp_path) if take.path and take.path.exists()}
    second = {take.name: file_digest(take.path) for take in takes(tmp_path) if take.path and take.path.exists()}

    assert first == second
    assert not list(tmp_path.glob("*.part"))


def test_every_take_is_what_it_says(tmp_path: Path) -> None:
    seconds: dict[str, float] = {}
    for take in takes(tmp_path / "recordings"):
        if take.path is None or take.reason is Reason.NOT_FOUND:
            assert take.raw is not None or not (take.path and take.path.exists())
        elif take.reason is not None:
            with pytest.raises(RecordingError) as refused:
                decode_file(take.path, tmp_path / "out", max_seconds=600.0)
            assert refused.value.reason is take.reason
        else:
            seconds[take.name] = decode_file(take.path, tmp_path / "out", max_seconds=600.0).samples / 16_000
            assert take.reference

    assert seconds["over a minute"] > 60.0
    assert len(seconds) == 10


def test_one_recording_is_there_twice_and_every_other_is_its_own(tmp_path: Path) -> None:
    digests = [file_digest(take.path) for take in takes(tmp_path) if take.path and take.path.exists()]

    assert len(digests) - len(set(digests)) == 1
