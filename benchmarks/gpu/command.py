"""What both passes cost on an NVIDIA GPU: the exported graph, with and without fused kernels, beside the alternatives.

    make kernels
    pip install onnxruntime-gpu    # in onnxruntime's place, for the row of ONNX Runtime
    python -m benchmarks.gpu

Writes results/gpu.json, and goes on with what is there of the same machine, versions and commit. Timed with CUDA
events, all contenders in turn, round by round; ratios are to one eager pass, block off, in the same round. Every
contender is given float32 pictures on the GPU. In bf16 and fp16 the network itself is PyTorch's cast of all of it; the
graph is lowered as the export lowers it. ONNX Runtime waits for the GPU at the end of every call, the others do not.
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

from benchmarks.gpu.contenders import (
    REFERENCE,
    WARM_UP_CALLS,
    BenchmarkError,
    Build,
    Function,
    contenders,
    in_onnx_runtime,
    network_of,
    rewritten_graph,
)
from benchmarks.provenance import commit
from export.kernels import operators
from training.common.provenance import current_versions

RESULT = Path(__file__).parents[2] / "results" / "gpu.json"
ONNX_RUNTIME = "graph, ONNX Runtime"
"""A contender where there is a build for GPUs, but in bf16, which the ONNX export does not have."""
ONNX_RUNTIME_PRECISIONS = ("float32", "tf32", "fp16")
CUDA_PROVIDER = "CUDAExecutionProvider"
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def milliseconds(function: Function, images: Tensor, calls: int) -> float:
    """GPU time of one call, the mean of `calls` in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function(images)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def measure(builds: Mapping[str, Build], images: Tensor, rounds: int, calls: int) -> dict[str, Any]:
    """Times of all contenders in turn, and the memory that making and calling each takes beside what is there already.

    A CUDA graph takes its memory when it is made; of max-autotune, what trying kernels out takes is counted too, and of
    all what libraries take beside PyTorch's allocator.
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
    """Bytes of the GPU in use that PyTorch's allocator did not reserve, whoever did."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def summary(times: Mapping[str, list[float]], memory: Mapping[str, int]) -> dict[str, Any]:
    """By contender: best and median time, the median over rounds of its ratio to the reference, peak memory."""
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
    lines = ["| contender | best, ms | median, ms | ratio | peak memory, MB |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in results.items():
        lines.append(f"| {name} | {row['best_ms']} | {row['median_ms']} | {row['ratio']} | {row['peak_memory_mb']} |")
    return "\n".join(lines)


def ready_device() -> torch.device:
    """The GPU, with the fused kernels loaded.

    raises BenchmarkError where there is no GPU or the kernels are not built for it
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
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["wrn-16-2", "wrn-28-10"], help="architectures")
    parser.add_argument("--image-size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="batch sizes")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["tf32", "bf16", "fp16"], help="formats")
    parser.add_argument("--rounds", type=int, default=30, help="times that every contender is timed")
    parser.add_argument("--calls", type=int, default=20, help="calls that are timed together")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    return parser.parse_args(arguments)


def started(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds of the same run, to go on with; the run with no results yet where it is of another."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {}
    results = found.pop("results", {})
    return {**run, "results": results if found == run else {}}


def main(arguments: list[str] | None = None) -> int:
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
    """The figures of one architecture, precision and batch size, by contender."""
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
