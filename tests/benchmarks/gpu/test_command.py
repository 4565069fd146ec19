"""The GPU benchmark: what can be tested of it without a GPU, and a tiny run where there is one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.errors import BenchmarkError
from benchmarks.gpu.command import TIME_IS_UP, Effort, main, measure, started, summary, table
from benchmarks.gpu.contenders import (
    CONTENDERS,
    ONNX_RUNTIME,
    REFERENCE,
    Build,
    Function,
    contenders,
    in_aot_package,
    in_onnx_runtime,
    network_of,
    on_device,
    rewritten_graph,
)
from export.kernels import operators
from export.network_passes import passes_of
from export.rewrite.editing import is_constant
from tests.export.networks import network_around
from training.networks.self_gradient import SelfGradientNetwork

IMAGE_SIZE = 16
CPU = torch.device("cpu")


def small_network() -> SelfGradientNetwork:
    """Return a network that is captured and compiled faster than a residual one."""
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return network_around(backbone).requires_grad_(False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "gpu.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "error: no NVIDIA GPU that PyTorch can use: this benchmark needs one; for the CPU: make bench"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_graph_can_be_moved_to_a_device_whole() -> None:
    network = network_of("wrn-10-1", IMAGE_SIZE)
    moved = on_device(rewritten_graph(network, IMAGE_SIZE, torch.bfloat16), torch.device("meta"))
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
    graph = on_device(rewritten_graph(network, IMAGE_SIZE, dtype, fused), CPU)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_itself_computes_in_the_precision(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    builds = contenders(network_of("wrn-10-1", IMAGE_SIZE), IMAGE_SIZE, CPU, dtype, images)
    assert tuple(builds) == CONTENDERS
    for name in CONTENDERS[:2]:
        with torch.no_grad():
            assert builds[name]()(images).dtype == dtype


def test_onnx_runtime_reads_and_writes_the_tensors_where_they_are() -> None:
    network = small_network()
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    graph = rewritten_graph(network, IMAGE_SIZE, torch.float32)
    run = in_onnx_runtime(graph, torch.zeros_like(images), "CPUExecutionProvider", {})
    check_outputs(run(images), network, images)
    check_outputs(run(images.flip(0)), network, images.flip(0))


@pytest.mark.filterwarnings("ignore:Specified provider")  # ONNX Runtime's own word
def test_a_provider_that_is_not_active_is_refused() -> None:
    graph = rewritten_graph(small_network(), IMAGE_SIZE, torch.float32)
    with pytest.raises(BenchmarkError, match="did not start its CUDAExecutionProvider"):
        in_onnx_runtime(graph, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), "CUDAExecutionProvider", {})


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_package_is_the_exports() -> None:
    network = small_network()
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    run = in_aot_package(rewritten_graph(network, IMAGE_SIZE, torch.float32), CPU)
    with torch.no_grad():
        check_outputs(run(images), network, images)


def check_outputs(found: Sequence[torch.Tensor], network: SelfGradientNetwork, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = passes_of(network)(images)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    path, run = tmp_path / "gpu.json", {"gpu": "one", "rounds": 30}
    assert started(path, run) == {**run, "results": {}, "left_out": {}}
    path.write_text(json.dumps({**run, "results": {"wrn-16-2, tf32, batch 1": {}}}))
    assert started(path, run)["results"] == {"wrn-16-2, tf32, batch 1": {}}
    assert started(path, {**run, "gpu": "another"})["results"] == {}


def test_contenders_are_added_to_what_was_measured_and_missing_ones_are_told(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    options = [
        "--device=cpu",
        "--arch=wrn-10-1",
        f"--image-size={IMAGE_SIZE}",
        "--batches",
        "2",
        "--precisions",
        "tf32",
    ]
    options += ["--rounds=1", "--calls=1", f"--out={output}", "--contenders"]
    key = "wrn-10-1, tf32, batch 2"
    assert main([*options, CONTENDERS[1]]) == 0
    first = json.loads(output.read_text())
    assert list(first["results"][key]) == list(CONTENDERS[:2])
    assert first["gpu"] == "none: a rehearsal on the CPU"
    assert main([*options, ONNX_RUNTIME]) == 0
    both = json.loads(output.read_text())
    assert both["results"] == first["results"]
    assert "no CUDAExecutionProvider" in both["left_out"][key][ONNX_RUNTIME]


def test_when_the_time_is_up_only_the_reference_is_measured() -> None:
    images = torch.zeros(1, 3, 4, 4)
    builds = {REFERENCE: lambda: torch.relu, "other": lambda: torch.relu}
    rows, left_out = measure(builds, images, Effort(rounds=2, calls=1, deadline=0))
    assert list(rows) == [REFERENCE]
    assert left_out == {"other": TIME_IS_UP}


def test_a_contender_that_fails_is_left_out_with_its_reason() -> None:
    def refuse() -> Function:
        raise RuntimeError("no compiler\nmore lines")

    builds: dict[str, Build] = {REFERENCE: lambda: torch.relu, "compiled": refuse}
    rows, left_out = measure(builds, torch.zeros(1, 3, 4, 4), Effort(rounds=1, calls=1))
    assert list(rows) == [REFERENCE]
    assert left_out == {"compiled": "RuntimeError: no compiler"}
    with pytest.raises(BenchmarkError, match=f"{REFERENCE}: no compiler"):
        measure({REFERENCE: refuse}, torch.zeros(1, 3, 4, 4), Effort(rounds=1, calls=1))


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
    assert main([*options, f"--out={output}"]) == 0
    (figures,) = json.loads(output.read_text())["results"].values()
    assert tuple(name for name in figures if name != ONNX_RUNTIME) == CONTENDERS
    assert all(row["best_ms"] > 0 for row in figures.values())
