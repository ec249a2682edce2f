"""Every path of the GPU's script, on a CPU with a tiny network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from consumer.core.batcher import BatchLimits
from consumer.engines.ctc_compile import FixedShapes
from consumer.engines.ctc_network import CtcNetwork, Recogniser, Run
from tests.bench import gpu

LIMITS = BatchLimits(padded_seconds=40.0, max_chunks=8, max_wait_seconds=0.03, queue_seconds=float("inf"))


def test_the_true_size_needs_the_flops_that_were_counted() -> None:
    flops = gpu.flops_of("large")
    for seconds, gigaflops in ((5.0, 37.1), (10.0, 38.4), (20.0, 40.9), (30.0, 43.3)):
        assert flops(seconds) / seconds / 1e9 == pytest.approx(gigaflops, rel=0.02)


def test_batches_hold_all_audio_with_little_padding() -> None:
    work = gpu.batches(600.0, LIMITS)
    sizes = [[chunk.size / 16_000 for chunk in batch] for batch in work]
    assert sum(map(sum, sizes)) >= 599.0
    assert all(len(batch) * max(batch) <= 40.0 for batch in sizes if len(batch) > 1)
    assert sum(len(batch) * max(batch) for batch in sizes) / sum(map(sum, sizes)) <= 1.15


def test_batches_overlap_and_every_answer_is_collected() -> None:
    model = gpu.recogniser("tiny", "cpu", torch.float32)
    steps: list[str] = []

    class Watched(CtcNetwork):
        def stage(self, chunks):  # type: ignore[no-untyped-def]
            steps.append("stage")
            return super().stage(chunks)

        def launch(self, staged):  # type: ignore[no-untyped-def]
            steps.append("launch")
            return super().launch(staged)

        def collect(self, launched):  # type: ignore[no-untyped-def]
            steps.append("collect")
            return super().collect(launched)

    gpu.hear(Watched(model, "cpu"), [[np.zeros(16_000, np.int16)]] * 3)
    assert steps == ["stage", "launch", "stage", "launch", "stage", "collect", "launch", "collect", "collect"]


def test_graphs_padding_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_cpu(variant: str, model: Recogniser, device: str) -> Run:
        def capture(run: Run, samples: torch.Tensor, sizes: torch.Tensor):  # type: ignore[no-untyped-def]
            return lambda: run(samples, sizes)

        # a graph of the only shape, that is kept whatever it is measured to be
        monkeypatch.setattr(
            "consumer.engines.ctc_compile._seconds", lambda run, *_, **__: 0.0 if run is not model else 1.0
        )
        return FixedShapes(model, device, rows=(4,), samples=(48_000,), capture=capture)

    monkeypatch.setattr(gpu, "run_of", on_a_cpu)
    model = gpu.recogniser("tiny", "cpu", torch.float32)
    row = gpu.measure("graphs", model, [[np.ones(32_000, np.int16)] * 3], LIMITS, lambda seconds: seconds)
    assert row.padding == pytest.approx(4 * 3.0 / (3 * 2.0))


def test_the_peak_is_of_the_chip_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, peak in {
        "NVIDIA H200": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L4": 121e12,
        "NVIDIA GeForce RTX 4090": None,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert gpu.peak_flops(torch.device("cuda:0")) == peak
    assert gpu.peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("dtype", "variants"),
    [
        ("float32", ["eager"]),
        ("bfloat16", ["eager"]),
        # the compiler takes minutes where cores are busy
        pytest.param("bfloat16", ["eager", "compile"], marks=[pytest.mark.patient, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Dynamo detected a call")  # the compiler's own
def test_the_command_runs_whole_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, variants: list[str]
) -> None:
    out = tmp_path / "gpu.json"
    asked = ["--device", "cpu", "--size", "tiny", "--dtype", dtype, "--variants", ",".join(variants)]
    gpu.main([*asked, "--audio-seconds", "60", "--batch-audio-seconds", "20,40", "--out", str(out)])
    found = json.loads(out.read_text())
    asked_rows = [(budget, variant) for budget in (20.0, 40.0) for variant in variants]
    assert [(row["batch_audio_seconds"], row["variant"]) for row in found["rows"]] == asked_rows
    for row in found["rows"]:
        assert row["realtime"] > 0
        assert 1.0 <= row["padding"] <= 1.3
        assert 0.0 <= row["idle"] < 1.0
        assert row["share_of_peak"] is None
    same = found["invariance"]
    assert same["sure_equal"] == 1.0
    assert same["sure"] > 0
    if dtype == "float32":
        assert same["equal"] == 1.0
    assert "tokens equal" in capsys.readouterr().out


def test_it_needs_no_more_than_torch_transformers_and_numpy() -> None:
    foreign = ("pydantic", "soundfile", "aiokafka", "librosa", "jiwer", "faster_whisper", "ctranslate2", "orjson")
    script = f"import sys; sys.modules.update(dict.fromkeys({foreign})); import tests.bench.gpu; print('imported')"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout == "imported\n", ran.stderr
