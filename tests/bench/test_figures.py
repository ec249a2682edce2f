"""From measurements to the table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2ForCTC

from tests.bench import contestants, figures
from tests.bench.clips import Clip, make_clips, read_clips
from tests.bench.contestants import Found
from tests.bench.kill_engine import silences
from tests.bench.processes import PeakMemory, cpu_seconds, on_cores, split_cores, tree
from tests.bench.weights import config_of

CLIPS = [Clip("a", Path("a.wav"), 4.0, "red green blue"), Clip("b", Path("b.wav"), 6.0, None)]
PRICES = {"cheap": 0.1, "dear": 1.0}


def found(seconds: float, **more: float | dict[str, str] | list[float]) -> Found:
    given = {"cpu_seconds": 2 * seconds, "texts": {"a": "red green", "b": "whatever"}, **more}
    return Found(seconds, 10.0, **given)  # type: ignore[arg-type]


def test_a_line_holds_the_median_of_its_runs_and_the_price_of_a_million_minutes() -> None:
    line = figures.figures("x", [found(1.0), found(4.0), found(2.0, latencies_seconds=[1.0, 3.0])], CLIPS, PRICES)
    assert line.realtime == 5.0
    assert line.cpu_seconds_per_audio_hour == 1440.0
    assert line.p50_seconds == 2.0
    assert line.p99_seconds == pytest.approx(2.98)
    # a million minutes are 16,667 hours of audio, 3,333 of the machine's at five times real time
    assert line.usd_per_million_minutes == {
        "cheap": pytest.approx(333.33, abs=0.01),
        "dear": pytest.approx(3333.3, abs=0.1),
    }


def test_errors_are_summed_over_the_clips_whose_words_are_known() -> None:
    known = [*CLIPS, Clip("c", Path("c.wav"), 1.0, "grey")]
    texts = {"a": "Red, green", "b": "anything at all", "c": "brown"}
    assert figures.word_error_rate(known, texts) == 0.5
    assert figures.word_error_rate(CLIPS[1:], texts) is None


def test_the_ratio_is_the_median_over_pairs_of_neighbours() -> None:
    service = [found(1.0), found(2.0), found(8.0)]
    alone = [found(1.0), found(1.0), found(7.0)]
    assert figures.service_against_engine(service, alone) == 7 / 8


def test_the_table_says_what_is_not_known() -> None:
    line = figures.figures("x", [found(1.0)], CLIPS[1:], PRICES)
    head, row = figures.table([line]).splitlines()
    assert "× real time" in head
    assert row.split() == ["x", "10.0", "–", "–", "720", "0", "–", "167", "1,667"]


def test_whoever_is_busy_finds_the_clips_that_came_meanwhile() -> None:
    now = 0.0
    groups: list[int] = []

    class Slow:
        at_once = 2
        note = ""

        def hear(self, clips: list[Clip]) -> list[str]:
            nonlocal now
            groups.append(len(clips))
            now += 1.0
            return [""] * len(clips)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clips = [Clip(str(number), Path(), 1.0, None) for number in range(5)]
    latencies = contestants.paced(Slow(), clips, [0.5, 0.6, 0.7, 0.8, 9.0], clock=lambda: now, sleep=sleep)
    assert groups == [1, 2, 1, 1]
    assert latencies == pytest.approx([1.0, 1.9, 1.8, 2.7, 1.0])


def test_cores_are_set_apart_where_there_are_enough() -> None:
    assert split_cores({0, 1}) == ({0, 1}, {0, 1})
    assert split_cores({0, 1, 2, 3}) == ({0, 1}, {2, 3})


def test_a_tree_counts_its_children_and_stays_on_its_cores() -> None:
    core = min(os.sched_getaffinity(0))
    burn = "import os, time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('done', flush=True); input()"
    )
    with on_cores({core}):
        command = [sys.executable, "-c", parent]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process, PeakMemory(process.pid) as memory:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        assert cpu_seconds(process.pid) >= 0.3
        assert process.pid in tree(os.getpid())
        assert os.sched_getaffinity(process.pid) == {core}
        process.communicate("\n")
    assert memory.peak_bytes > 1_000_000
    assert tree(process.pid) == [process.pid]
    assert cpu_seconds(process.pid) == 0.0


def test_silence_is_the_longest_gap_around_each_kill() -> None:
    assert silences([0.0, 1.0, 2.0, 7.0, 7.5, 8.0, 11.0, 11.5], [2.5, 8.0]) == [5.0, 3.0]
    assert silences([1.0], [2.0]) == [0.0], "nothing was left to be heard"


@pytest.mark.parametrize("mix", ["short", "usual"])
def test_clips_are_the_same_ones_each_time_and_no_two_are_equal(tmp_path: Path, mix: str) -> None:
    first, second = make_clips(tmp_path / "1", 12, mix), make_clips(tmp_path / "2", 12, mix)
    bodies = [clip.path.read_bytes() for clip in first]
    assert bodies == [clip.path.read_bytes() for clip in second]
    assert len(set(bodies)) == 12
    assert {clip.text is None for clip in first} == {True, False}
    if mix == "short":
        assert all(2.0 <= clip.seconds <= 8.0 for clip in first)


def test_a_folder_without_recordings_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recordings"):
        read_clips(tmp_path)


@pytest.mark.parametrize(("size", "millions"), [("base", 94.4), ("large", 315.5)])
def test_random_weights_have_the_true_shape(size: str, millions: float) -> None:
    with torch.device("meta"):  # counted without being made
        network = Wav2Vec2ForCTC(config_of(size))
    assert sum(weights.numel() for weights in network.parameters()) == pytest.approx(millions * 1e6, rel=0.001)
