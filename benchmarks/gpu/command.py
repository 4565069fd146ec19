"""Measure what both passes cost on an NVIDIA GPU: the exported graph, with and without fused kernels, and alternatives.

    make kernels
    pip install onnxruntime-gpu    # in onnxruntime's place, for the row of ONNX Runtime
    python -m benchmarks.gpu

Writes results/gpu.json. Figures that are there already, of the same machine, versions and commit, are kept. CUDA
events time all contenders in turn, round by round. Ratios are to one eager pass, block off, in the same round. Every
contender is given float32 pictures on the GPU. In bf16 and fp16, PyTorch casts the whole network; the graph is lowered
as the export lowers it. ONNX Runtime waits for the GPU at the end of every call, the others do not.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.gpu.contenders import (
    REFERENCE,
    WARM_UP_CALLS,
    Build,
    Function,
    contenders,
    in_onnx_runtime,
    network_of,
    rewritten_graph,
)
from benchmarks.provenance import commit
from export.kernels import operators
from training.common import markdown
from training.common.provenance import current_versions

RESULT = Path(__file__).parents[2] / "results" / "gpu.json"
ONNX_RUNTIME = "graph, ONNX Runtime"
"""A contender where ONNX Runtime is a build for GPUs. The ONNX export has no bf16."""
ONNX_RUNTIME_PRECISIONS = ("float32", "tf32", "fp16")
CUDA_PROVIDER = "CUDAExecutionProvider"
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def milliseconds(function: Function, images: Tensor, calls: int) -> float:
    """Return the GPU time of one call in milliseconds, the mean of `calls` in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function(images)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def measure(builds: Mapping[str, Build], images: Tensor, rounds: int, calls: int) -> dict[str, Any]:
    """Time all contenders in turn, and measure the memory that making and calling each of them takes.

    A CUDA graph takes its memory when it is made. What max-autotune takes to try kernels counts too, and so does what
    libraries take beside PyTorch's allocator.

    Args:
        builds: A function for each contender, which makes it.
        images: (N, 3, H, W) float32 on the GPU.
        rounds: How often each contender is timed.
        calls: How many calls are timed together.
    """
    memory, functions = {}, {}
    for name, build in tqdm(builds.items(), desc="warming up", leave=False):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() + memory_beside_pytorch()
        functions[name] = build()
        for _ in range(WARM_UP_CALLS):
            functions[name](images)
        torch.cuda.synchronize()
        memory[name] = torch.cuda.max_memory_allocated() + memory_beside_pytorch() - before
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, function in functions.items():
            times[name].append(milliseconds(function, images, calls))
    return summary(times, memory)


def memory_beside_pytorch() -> int:
    """Return how many bytes of the GPU are in use that PyTorch's allocator did not reserve."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def summary(times: Mapping[str, list[float]], memory: Mapping[str, int]) -> dict[str, Any]:
    """Return best and median time, ratio to the reference and peak memory by contender.

    Args:
        times: Milliseconds of each round, by contender. The ratio is the median over rounds.
        memory: Peak bytes by contender.
    """
    return {
        name: {
            "best_ms": round(min(own), 4),
            "median_ms": round(statistics.median(own), 4),
            "ratio": round(statistics.median(a / b for a, b in zip(own, times[REFERENCE], strict=True)), 3),
            "peak_memory_mb": round(memory[name] / 1e6, 1),
        }
        for name, own in times.items()
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures by contender as a Markdown table."""
    header = ("contender", "best, ms", "median, ms", "ratio", "peak memory, MB")
    keys = ("best_ms", "median_ms", "ratio", "peak_memory_mb")
    rows = [[name, *(str(row[key]) for key in keys)] for name, row in results.items()]
    return markdown.table(header, rows, "lrrrr")


def ready_device() -> torch.device:
    """Return the GPU, with the fused kernels loaded.

    Raises:
        BenchmarkError: There is no GPU, or the kernels are not built for it.
    """
    if not torch.cuda.is_available():
        raise BenchmarkError("no NVIDIA GPU that PyTorch can use: this benchmark needs one; for the CPU: make bench")
    try:
        operators.load()
    except operators.KernelsError as error:
        raise BenchmarkError(str(error)) from None
    if not torch._C._dispatch_has_kernel_for_dispatch_key("sgn::self_gradient_block", "CUDA"):
        raise BenchmarkError("the fused kernels are built without CUDA: install nvcc and run `make kernels CUDA=1`")
    return torch.device("cuda")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, by default the process's."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["wrn-16-2", "wrn-28-10"], help="architectures")
    parser.add_argument("--image-size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="batch sizes")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["tf32", "bf16", "fp16"], help="number formats"
    )
    parser.add_argument("--rounds", type=int, default=30, help="how often every contender is timed")
    parser.add_argument("--calls", type=int, default=20, help="how many calls are timed together")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    return parser.parse_args(arguments)


def started(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result to go on with: the file's where it has the same setting, otherwise one without figures.

    Args:
        path: The JSON file. It need not be there.
        setting: Machine, versions, commit and options.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {}
    results = found.pop("results", {})
    return {**setting, "results": results if found == setting else {}}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(arguments)
    try:
        device = ready_device()
        result = started(
            options.output,
            {
                "command": "python -m benchmarks.gpu",
                "gpu": torch.cuda.get_device_name(device),
                "versions": current_versions(),
                "git_commit": commit(),
                "image_size": options.image_size,
                "rounds": options.rounds,
                "calls": options.calls,
            },
        )
        for architecture in options.arch:
            for precision in options.precisions:
                for batch in options.batches:
                    key = f"{architecture}, {precision}, batch {batch}"
                    if key not in result["results"]:
                        result["results"][key] = measured(architecture, options, precision, batch, device)
                        options.output.parent.mkdir(exist_ok=True)
                        options.output.write_text(json.dumps(result, indent=1) + "\n")  # kept if it is interrupted
                    print(f"\n{key}\n{table(result['results'][key])}", flush=True)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measured(
    architecture: str, options: argparse.Namespace, precision: str, batch: int, device: torch.device
) -> dict[str, Any]:
    """Measure one architecture, precision and batch size, and return the figures by contender."""
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    dtype, size = PRECISIONS[precision], options.image_size
    images = torch.rand(batch, 3, size, size, device=device)
    network = network_of(architecture, size)
    settings = {"device_id": "0", "use_tf32": str(int(tf32))}
    written = rewritten_graph(network, size, dtype)
    with torch.no_grad():
        builds = contenders(network, size, device, dtype, images)
        if precision in ONNX_RUNTIME_PRECISIONS and CUDA_PROVIDER in onnxruntime.get_available_providers():
            builds[ONNX_RUNTIME] = lambda: in_onnx_runtime(written, images, CUDA_PROVIDER, settings)
        return measure(builds, images, options.rounds, options.calls)
