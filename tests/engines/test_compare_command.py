"""``earwitness compare`` on recordings with texts beside them."""

import json
import shutil
from pathlib import Path

import pytest

from compose.tiny_en import ct2_tiny_en
from tests.support.audio_files import SPEECH
from tests.support.cli import Earwitness
from tests.support.recordings import recordings


@pytest.fixture
def earwitness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Earwitness:
    return Earwitness(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five sentences; the text of one is missing, and one more file is no recording."""
    for one in recordings():
        shutil.copy(one.path, tmp_path)
        (tmp_path / one.path.name).with_suffix(".txt").write_text(f"{one.text}\n", encoding="utf-8")
    (tmp_path / "austen-0930.txt").unlink()
    (tmp_path / "broken.wav").write_text("no audio at all", encoding="utf-8")
    return tmp_path


@pytest.mark.model
@pytest.mark.patient
def test_both_engines_hear_a_folder_and_are_held_against_its_texts_and_each_other(
    earwitness: Earwitness, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = tmp_path_factory.mktemp("manifest") / "more.jsonl"
    again = {"uri": str(SPEECH / "austen-0870.flac"), "tenant": "acme", "language": "en", "reference_text": "nothing"}
    manifest.write_text(json.dumps(again), encoding="utf-8")
    second = ("--against", "ctranslate2", "--against-model", str(ct2_tiny_en()))

    assert (
        earwitness(
            "--set",
            "simulated_usd_per_minute=0.6",
            "compare",
            str(folder),
            "--jsonl",
            str(manifest),
            "--engine",
            "simulated",
            *second,
            "--json",
        )
        == 1
    )

    told = json.loads(earwitness.out)
    assert (told["recordings"], told["compared"], told["without_reference"]) == (7, 6, 1)
    rows = {(row["by"], row["value"], row["engine"].split()[0], row["against"]): row for row in told["rows"]}
    simulated, tiny = rows["all", "", "simulated", "reference"], rows["all", "", "ctranslate2", "reference"]
    assert (simulated["events"], tiny["events"]) == (5, 5)
    assert simulated["words"] == tiny["words"] > 50
    assert simulated["rate"] > 0.9
    texts = rows["tenant", "default", "ctranslate2", "reference"]
    assert texts["rate"] < 0.2
    assert rows["tenant", "acme", "simulated", "reference"]["words"] == 1, "the manifest's own text counts"
    assert rows["all", "", "simulated", "ctranslate2"]["events"] == 6
    assert {by for by, *_ in rows} == {"all", "language", "length", "tenant"}
    first, second_cost = sorted(told["costs"], key=lambda cost: cost["usd"], reverse=True)
    assert first["engine"].startswith("simulated ")
    assert first["usd"] == pytest.approx(first["audio_seconds"] / 100)
    assert (first["count"], second_cost["count"]) == (6, 6)
    assert f"{folder}/broken.wav: unsupported_format: " in earwitness.err
    assert earwitness.err.splitlines()[-1] == ("earwitness: 1 of 7 were not heard by both engines, and are not counted")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--engine", "simulated"), "name the second engine"),
        (("--engine", "simulated", "--against", "simulated"), "one engine twice"),
    ],
)
def test_two_different_engines_are_needed(earwitness: Earwitness, arguments: tuple[str, ...], complaint: str) -> None:
    assert earwitness("compare", str(SPEECH), *arguments) == 2
    assert complaint in earwitness.err


def test_engines_are_chosen_for_recordings_only(earwitness: Earwitness) -> None:
    assert earwitness("compare", "--engine", "simulated") == 2
    assert "engines are chosen for recordings" in earwitness.err
