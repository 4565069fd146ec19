"""The GPU benchmark: what can be tested of it without a GPU, and a tiny run where there is one."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import REFERENCE, graph_of, main, network_of, summary, table
from export.kernels import operators

IMAGE_SIZE = 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path / "gpu.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: no NVIDIA GPU that PyTorch can use: this benchmark needs one; for the CPU: make bench"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_graph_can_be_moved_to_a_device_whole() -> None:
    dtype = torch.bfloat16
    network = network_of("wrn-10-1", IMAGE_SIZE, dtype)
    moved = graph_of(network, IMAGE_SIZE, torch.device("meta"), fused=False)
    images = torch.empty(5, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta", dtype=dtype)
    outputs = moved(images)
    assert [tuple(output.shape) for output in outputs] == [(5, 10), (5, 10), (5, 3, IMAGE_SIZE, IMAGE_SIZE)]
    assert {(output.device.type, output.dtype) for output in outputs} == {("meta", dtype)}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_ratios_are_taken_within_rounds() -> None:
    times = {REFERENCE: [1.0, 2.0, 10.0], "other": [3.0, 5.0, 30.0]}
    result = summary(times, {REFERENCE: 0, "other": 2_500_000})
    assert result["other"] == {"best_ms": 3.0, "median_ms": 5.0, "ratio": 3.0, "peak_memory_mb": 2.5}
    assert "| other | 3.0 | 5.0 | 3.0 | 2.5 |" in table(result)


@pytest.mark.gpu
def test_a_tiny_run_measures_every_contender(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    if not operators.library_path().is_file():
        pytest.skip("needs the fused kernels: make kernels")
    output = tmp_path / "gpu.json"
    options = ["--arch=wrn-10-1", "--batches", "2", "--precisions", "bf16", "--rounds=2", "--calls=2"]
    assert main([*options, f"--output={output}"]) == 0
    (figures,) = json.loads(output.read_text())["results"].values()
    assert len(figures) == 6
    assert all(row["best_ms"] > 0 for row in figures.values())
