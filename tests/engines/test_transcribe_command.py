"""``earwitness transcribe``: the same ears without Kafka."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compose.tiny_en import ct2_tiny_en
from consumer import service
from consumer.audio.spool import Spool
from consumer.engines.choose import profile_of
from consumer.settings import PREFIX, Settings
from schemas.models import Recognised
from tests.support.audio_files import SPEECH, encode_m4a, speech
from tests.support.cli import Earwitness
from tests.support.recordings import recordings, word_error_rate

SIMULATED = ("--engine", "simulated")
FIRST = str(SPEECH / "austen-0870.flac")
SECOND = str(SPEECH / "austen-0880.flac")


@pytest.fixture
def earwitness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Earwitness:
    return Earwitness(monkeypatch, capsys)


@pytest.fixture
def tiny_en() -> tuple[str, ...]:
    return "--engine", "ctranslate2", "--model", str(ct2_tiny_en())


@pytest.mark.model
def test_the_words_of_several_recordings_are_printed_in_the_order_asked_for(
    earwitness: Earwitness, tiny_en: tuple[str, ...]
) -> None:
    spoken = recordings()

    assert earwitness("transcribe", *tiny_en, *(str(one.path) for one in spoken)) == 0

    lines = earwitness.out.splitlines()
    assert lines[0::2] == [f"==> {one.path} <==" for one in spoken]
    assert word_error_rate([one.text for one in spoken], lines[1::2]) < 0.2
    assert earwitness.err == ""


@pytest.mark.model
def test_subtitles_carry_the_times_of_words(earwitness: Earwitness, tiny_en: tuple[str, ...], tmp_path: Path) -> None:
    recording = encode_m4a(tmp_path / "voice note #1.m4a", speech(), 16_000)

    assert earwitness("transcribe", *tiny_en, "--format", "srt", str(recording)) == 0

    first, second = earwitness.out.split("\n\n")
    assert first.startswith("1\n00:00:00,")
    assert second.startswith("2\n00:00:0")
    assert "John Dashwood" in first


def test_a_text_heard_without_word_times_is_not_served_to_those_who_want_them() -> None:
    plain, timed = (profile_of(Settings(engine="whisper", word_times=wanted))("en") for wanted in (False, True))

    assert plain != timed
    assert profile_of(Settings(engine="ctc", word_times=True))("en") == profile_of(Settings(engine="ctc"))("en")


def test_one_recording_is_printed_as_nothing_but_its_text(earwitness: Earwitness) -> None:
    assert earwitness("transcribe", *SIMULATED, FIRST) == 0

    assert earwitness.out.startswith("simulated ")
    assert earwitness.out.count("\n") == 1


def test_a_failing_recording_is_told_with_its_reason_and_does_not_stop_the_others(
    earwitness: Earwitness, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.wav"
    text = tmp_path / "text.flac"
    text.write_text("no audio at all", encoding="utf-8")

    assert earwitness("transcribe", *SIMULATED, str(missing), FIRST, str(text), "ftp://x/y.wav", SECOND) == 1

    assert [line for line in earwitness.out.splitlines() if line.startswith("==>")] == [
        f"==> {FIRST} <==",
        f"==> {SECOND} <==",
    ]
    assert f"{missing}: not_found: " in earwitness.err
    assert f"{text}: unsupported_format: " in earwitness.err
    assert "ftp://x/y.wav: uri_not_allowed: " in earwitness.err
    assert earwitness.err.splitlines()[-1] == "earwitness: 3 of 5 could not be transcribed"


def test_json_is_one_object_a_line_that_reads_as_recognised(earwitness: Earwitness) -> None:
    assert earwitness("transcribe", *SIMULATED, "--format", "json", "--language", "de", FIRST, SECOND) == 0

    objects = [json.loads(line) for line in earwitness.out.splitlines()]
    assert [one["uri"] for one in objects] == [Path(FIRST).as_uri(), Path(SECOND).as_uri()]
    assert [Recognised.model_validate(one).language for one in objects] == ["de", "de"]
    assert {one["route"] for one in objects} == {"local"}
    assert all(len(one["sha256"]) == 64 for one in objects)


def test_a_folder_is_searched_and_an_output_folder_gets_a_file_for_each(earwitness: Earwitness, tmp_path: Path) -> None:
    out = tmp_path / "subtitles"

    assert earwitness("transcribe", *SIMULATED, "--format", "srt", "--output-dir", str(out), str(SPEECH)) == 0

    assert sorted(file.stem for file in out.iterdir()) == sorted(one.name for one in recordings())
    assert {file.suffix for file in out.iterdir()} == {".srt"}
    assert earwitness.out == ""


@pytest.mark.model
def test_a_language_that_the_model_does_not_know_is_refused_as_the_service_would(
    earwitness: Earwitness, tiny_en: tuple[str, ...]
) -> None:
    assert earwitness("transcribe", *tiny_en, "--language", "de", FIRST) == 1

    assert earwitness.out == ""
    assert earwitness.err.startswith(f"earwitness: {FIRST}: unsupported_language: ")


def test_an_output_folder_that_is_a_file_ends_it_with_one_line(earwitness: Earwitness, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()

    assert earwitness("transcribe", *SIMULATED, "--output-dir", str(taken), FIRST) == 1

    assert earwitness.err == f"earwitness: {taken} cannot be written: File exists\n"


def test_a_result_that_cannot_be_written_ends_it_with_one_line(earwitness: Earwitness, tmp_path: Path) -> None:
    target = tmp_path / f"{Path(FIRST).stem}.txt"
    target.mkdir()

    assert earwitness("transcribe", *SIMULATED, "--output-dir", str(tmp_path), FIRST) == 1

    assert earwitness.err == f"earwitness: {target} cannot be written: Is a directory\n"


def test_a_full_standard_output_ends_it_with_one_line() -> None:
    command = [sys.executable, "-c", "from consumer.cli import main; main()", "transcribe", *SIMULATED, FIRST]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (
        1,
        "earwitness: standard output cannot be written: No space left on device\n",
    )


def test_a_name_that_is_no_utf8_is_shown_escaped_and_kept_by_its_results(
    earwitness: Earwitness, tmp_path: Path
) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.flac"))
    named.write_bytes(Path(FIRST).read_bytes())

    assert earwitness("transcribe", *SIMULATED, str(named), SECOND) == 0
    assert earwitness.out.startswith(f"==> {tmp_path}/caf\\udce9.flac <==\n")
    assert earwitness("transcribe", *SIMULATED, "--format", "json", str(named)) == 0
    assert json.loads(earwitness.out)["uri"] == f"file://{tmp_path}/caf%E9.flac"
    assert earwitness("transcribe", *SIMULATED, "--output-dir", str(tmp_path), str(named)) == 0
    assert named.with_suffix(".txt").is_file()


def test_two_recordings_never_share_an_output_file(earwitness: Earwitness, tmp_path: Path) -> None:
    for name in ("a/talk.wav", "b/talk.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    both = str(tmp_path / "a" / "talk.wav"), str(tmp_path / "b" / "talk.wav")

    assert earwitness("transcribe", *SIMULATED, "--output-dir", str(tmp_path / "out"), *both) == 2

    assert "two recordings" in earwitness.err


def test_subtitles_of_several_recordings_are_not_mixed_on_one_stream(earwitness: Earwitness) -> None:
    assert earwitness("transcribe", *SIMULATED, "--format", "srt", FIRST, SECOND) == 2

    assert "--output-dir" in earwitness.err


def test_it_runs_beside_a_service_that_owns_the_state_folder(
    earwitness: Earwitness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}STATE_DIR", str(tmp_path))
    taken = Spool(tmp_path / "spool", 1024)
    taken.open()
    try:
        assert earwitness("transcribe", *SIMULATED, FIRST) == 0
    finally:
        taken.close()


def test_an_engine_that_does_not_exist_is_a_usage_error(earwitness: Earwitness) -> None:
    assert earwitness("transcribe", "--engine", "telepathy", FIRST) == 2

    assert "engine" in earwitness.err


def test_a_model_that_does_not_exist_ends_it_with_one_line(earwitness: Earwitness, tmp_path: Path) -> None:
    assert earwitness("transcribe", "--engine", "ctranslate2", "--model", str(tmp_path / "none"), FIRST) == 1

    (line,) = earwitness.err.splitlines()
    assert line.startswith(f"earwitness: model {tmp_path / 'none'}: there is no such folder; set model to ")


def test_a_mistyped_name_is_told_before_any_engine_is_loaded(
    earwitness: Earwitness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "hearing", None)
    missing = tmp_path / "speach.wav"

    assert earwitness("transcribe", str(missing), missing.as_uri()) == 1

    assert f"earwitness: {missing}: not_found: file://{missing} does not exist" in earwitness.err
    assert earwitness.err.splitlines()[-1] == "earwitness: 2 of 2 could not be transcribed"
