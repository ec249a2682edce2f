"""The whole comparison and the kill, small: real processes, a real broker, tiny models."""

import json
from pathlib import Path

import pytest

from tests.bench import engines, kill_engine
from tests.bench.clips import make_clips
from tests.support.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.model, pytest.mark.bench]


@pytest.mark.timeout(600)
def test_one_run_compares_the_service_its_engine_and_its_peers(
    kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clips(tmp_path / "audio", 3)
    out = tmp_path / "found" / "bench.json"
    asked = ["--kafka", kafka.bootstrap_servers, "--audio", str(tmp_path / "audio"), "--models", str(tmp_path)]
    asked += ["--ctc-size", "tiny", "--clips", "3", "--ctc-clips", "2", "--runs", "1", "--paced", "2"]
    engines.main([*asked, "--usd-per-hour", "small=0.1", "--usd-per-hour", "large=1", "--out", str(out)])
    found = json.loads(out.read_text())
    whisper, ctc = found["ctranslate2"], found["ctc"]
    assert [line["name"] for line in whisper["figures"]] == [
        "(a) the service through Kafka",
        "(b) its engine alone",
        "(c) faster-whisper one by one, int8",
        "(c) one by one, float32",
        "(d) the ASR pipeline, float32",
        "(e) faster-whisper batched, int8",
    ]
    for line in [*whisper["figures"], *ctc["figures"]]:
        assert line["realtime"] > 0
        assert line["p99_seconds"] >= line["p50_seconds"] > 0
        assert line["cpu_seconds_per_audio_hour"] > 0
        assert line["peak_rss_bytes"] > 50_000_000
        assert line["usd_per_million_minutes"].keys() == {"small", "large"}
    assert all(line["wer"] < 0.5 for line in whisper["figures"]), "each heard the words"
    assert whisper["same_texts_as_engine_alone"] == ctc["same_texts_as_engine_alone"] == 1.0
    assert whisper["ratios"].keys() >= {"(a) against (e) faster-whisper batched, int8"}
    assert capsys.readouterr().out.count("(a) against (b), median of pairs") == 2
    for engine in ("ctranslate2", "ctc"):
        assert "</svg>" in out.with_suffix(f".{engine}.svg").read_text()


@pytest.mark.timeout(300)
def test_a_killed_engine_child_loses_nothing(kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_engine, "BACK_SECONDS", 60.0)  # how soon is for the bench; here it is that all come
    out = tmp_path / "kill.json"
    kill_engine.main(["--kafka", kafka.bootstrap_servers, "--clips", "12", "--kills", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    assert len(found["silences_seconds"]) == 1
    assert found["load_seconds"] > 0
