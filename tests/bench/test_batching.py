"""The simulator's own arithmetic, and what the service's batcher must reach in it."""

import json
from pathlib import Path

import numpy as np
import pytest

from consumer.core.batcher import BatchLimits
from consumer.settings import Settings
from tests.bench import batching
from tests.bench.batching import Arrival, Device, Graphs, Simulation, limits_of, measure
from tests.bench.mix import lengths

GPU = Device(seconds_per_audio_second=1 / 8000, seconds_per_batch=0.002)
SATURATED = 1.5


def limits(**chosen: float) -> BatchLimits:
    return BatchLimits(padded_seconds=20.0, max_chunks=4, max_wait_seconds=1.0, queue_seconds=1000.0, **chosen)


def test_the_mix_is_the_usual_one() -> None:
    drawn = np.array(lengths(200_000, np.random.default_rng(0)))
    assert drawn.mean() == pytest.approx(6.5, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(0.7, rel=0.05)  # the cap takes a little
    assert drawn.max() == 35.0


def test_times_follow_from_the_formula() -> None:
    simulation = Simulation(limits(), Device(seconds_per_audio_second=0.5, seconds_per_batch=0.25))
    simulation.run([Arrival(0.0, 3.0), Arrival(0.5, 2.7), Arrival(10.0, 1.0)])
    row = simulation.row("ctc", "by hand", 1.0)
    # the first two share a bucket, leave when the first has waited a second, and cost 2 × 3 s of audio
    assert simulation.waits == [1.0, 0.5, 0.0]
    assert simulation.latencies == [4.25, 3.75, 0.75]
    assert row.padding == pytest.approx((6.0 + 1.0) / 6.7)
    assert row.busy == pytest.approx((3.25 + 0.75) / 10.75)
    assert row.fill == pytest.approx((6 + 1) / 2 / 20)
    assert (row.chunks_a_batch, row.window_fill) == (1.5, None)


def test_a_batch_given_ahead_begins_when_the_device_is_free() -> None:
    simulation = Simulation(limits(), Device(seconds_per_audio_second=1.0, seconds_per_batch=0.0, ahead=2))
    simulation.run([Arrival(0.0, 20.0), Arrival(0.0, 20.0), Arrival(0.0, 20.0)])
    assert simulation.latencies == [20.0, 40.0, 60.0]
    assert max(simulation.idle_waits) == 0.0


def test_graphs_count_their_padding_and_their_empty_rows() -> None:
    graphs = Graphs((5.0, 10.0), (1, 2, 4))
    assert graphs.computed_seconds(1, 4.0) == 5.0
    assert graphs.computed_seconds(3, 5.0) == 20.0
    assert graphs.computed_seconds(6, 7.0) == 60.0
    assert graphs.computed_seconds(3, 12.0) == 36.0, "longer than every graph: as it is"


@pytest.mark.parametrize("pattern", batching.PATTERNS)
@pytest.mark.parametrize("chunks_in_a_batch", [16, 64])
def test_at_saturation_the_usual_mix_is_padded_by_no_more_than_15_percent(pattern: str, chunks_in_a_batch: int) -> None:
    settings = Settings(batch_max_chunks=chunks_in_a_batch)
    row = measure("ctc", pattern, SATURATED, limits_of("ctc", settings), GPU, chunks=5000)
    assert row.padding <= 1.15
    assert row.busy >= 0.95, "not saturated: the padding would mean nothing"


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
@pytest.mark.parametrize("load", batching.LOADS)
@pytest.mark.parametrize("pattern", batching.PATTERNS)
def test_no_chunk_waits_longer_than_it_may_while_a_device_is_idle(kind: str, load: float, pattern: str) -> None:
    settings = Settings(batch_wait_ms=30)
    row = measure(kind, pattern, load, limits_of(kind, settings), GPU, chunks=1500)
    assert row.idle_wait_max <= 0.030 + 1e-9


def test_whispers_window_is_told_apart_from_padding() -> None:
    row = measure("whisper", "steady", SATURATED, limits_of("whisper", Settings()), GPU, chunks=2000)
    assert row.padding == pytest.approx(1.0)
    assert row.window_fill == pytest.approx(6.5 / 30, rel=0.1)


def test_the_command_prints_a_row_for_each_case_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found" / "batching.json"
    batching.main(["--chunks", "300", "--loads", "0.5,2", "--kinds", "ctc,ctc-graphs", "--out", str(out)])
    written = json.loads(out.read_text())
    assert [(row["kind"], row["pattern"], row["load"]) for row in written["rows"]] == [
        (kind, pattern, load) for kind in ("ctc", "ctc-graphs") for pattern in batching.PATTERNS for load in (0.5, 2.0)
    ]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(written["rows"])
    assert written["command"].startswith("python -m tests.bench.batching --chunks 300")
