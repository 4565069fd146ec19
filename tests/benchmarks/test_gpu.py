"""The GPU benchmark: what can be tested of it without a GPU, and a tiny run where there is one."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import CONTENDERS, REFERENCE, contenders, graph_of, main, network_of, summary, table
from export.capture import passes_of
from export.kernels import operators
from export.rewrite.editing import is_constant

IMAGE_SIZE = 16
CPU = torch.device("cpu")


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
    network = network_of("wrn-10-1", IMAGE_SIZE)
    moved = graph_of(network, IMAGE_SIZE, torch.device("meta"), torch.bfloat16, fused=False)
    images = torch.empty(5, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta")
    outputs = moved(images)
    assert [tuple(output.shape) for output in outputs] == [(5, 10), (5, 10), (5, 3, IMAGE_SIZE, IMAGE_SIZE)]
    assert {(output.device.type, output.dtype) for output in outputs} == {("meta", torch.float32)}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


needs_kernels = pytest.mark.skipif(
    not operators.library_path().is_file(), reason="needs the fused kernels: make kernels"
)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_kernels)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_a_graph_is_the_exports(dtype: torch.dtype, tolerance: float, fused: bool) -> None:
    """The network's answers, in float32 but for the convolutions, and no work on weights left to every call."""
    network = network_of("wrn-10-1", IMAGE_SIZE)
    images = torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    graph = graph_of(network, IMAGE_SIZE, CPU, dtype, fused)
    with torch.no_grad():
        found, expected = graph(images), passes_of(network)(images)
    assert {output.dtype for output in found} == {torch.float32}
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < tolerance * other.norm()

    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert not [node for node in calls if node.all_input_nodes and all(map(is_constant, node.all_input_nodes))]
    convolutions = [node for node in calls if node.target is torch.ops.aten.convolution.default]
    of_the_block = [node for node in convolutions if node.args[1].meta["val"].shape == (3, 3, 1, 1)]
    assert len(of_the_block) == (0 if fused else 5)
    assert {node.meta["val"].dtype for node in of_the_block} <= {torch.float32}
    assert {node.meta["val"].dtype for node in set(convolutions) - set(of_the_block)} == {dtype}


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_itself_computes_in_the_precision(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    builds = contenders(network_of("wrn-10-1", IMAGE_SIZE), IMAGE_SIZE, CPU, dtype, images)
    assert tuple(builds) == CONTENDERS
    for name in CONTENDERS[:2]:
        with torch.no_grad():
            assert builds[name]()(images).dtype == dtype


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
    assert tuple(figures) == CONTENDERS
    assert all(row["best_ms"] > 0 for row in figures.values())
