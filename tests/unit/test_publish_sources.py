"""What a publisher is asked to publish: folders, files, manifests."""

from pathlib import Path

import pytest

from producer.errors import ManifestError, PublishError
from producer.manifest import Wanted, read_manifest
from producer.walk import recordings


def test_a_folder_stands_for_the_recordings_in_it_in_order_and_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/z.mp3", "a/notes.txt", ".hidden.wav", ".cache/c.wav", "c.opus"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()

    found = [Path(name).relative_to(tmp_path).as_posix() for name in recordings([str(tmp_path)])]

    assert found == ["b.WAV", "c.opus", "a/z.mp3"]


def test_files_and_addresses_are_taken_as_they_are_said(tmp_path: Path) -> None:
    (tmp_path / "voice.dat").touch()
    said = ["https://media.example/a", str(tmp_path / "voice.dat"), "s3://bucket/b.wav"]
    assert list(recordings(said)) == said


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no such file or folder"):
        list(recordings([str(tmp_path / "gone")]))


def test_a_manifest_gives_addresses_with_their_wishes_and_passes_over_empty_lines() -> None:
    lines = [
        b'{"uri": "s3://bucket/a.wav", "event_id": "1", "critical": true, "published_at": "2020-01-01T00:00:00Z"}\n',
        b"\n",
        b'{"uri": "b.wav", "of_a_later_version": 1, "schema_version": 1}',
    ]
    assert list(read_manifest(lines)) == [
        Wanted("s3://bucket/a.wav", {"event_id": "1", "critical": True}),
        Wanted("b.wav", {}),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "events:2: not JSON"),
        (b"[]", "events:2: not an object with a `uri`"),
        (b'{"event_id": "1"}', "events:2: not an object with a `uri`"),
        (b'{"uri": "s3://a/b", "schema_version": 2}', "events:2: schema_version 2 is not 1"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_by_its_number(line: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        list(read_manifest([b'{"uri": "s3://a/b"}', line], "events"))
