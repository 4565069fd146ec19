"""What both passes cost on an NVIDIA GPU: the exported graph, with and without fused kernels, beside the alternatives.

    make kernels
    python -m benchmarks.gpu --arch wrn-28-10

Writes results/gpu.json. Timed with CUDA events, all contenders in turn, round by round; ratios are to one eager pass,
block off, in the same round. Every contender is given float32 pictures. In bf16 the network itself is PyTorch's cast of
all of it; the graph is lowered as the export lowers it.
"""

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from tqdm import tqdm

from benchmarks.provenance import commit
from export.capture import capture, passes_of
from export.kernels import operators
from export.kernels.fuse import fuse_block
from export.rewrite import rewrite, store_weights
from export.rewrite.precision import lower_precision
from training.checkpoint import BlockConfig, CheckpointInfo, build_model, current_versions
from training.model import SelfGradientNetwork

RESULT = Path(__file__).parents[1] / "results" / "gpu.json"
REFERENCE = "eager, one pass"
CONTENDERS = (
    REFERENCE,
    "eager, both passes",
    "compiled (max-autotune), the network itself",
    "compiled (max-autotune), both passes",
    "compiled (max-autotune), fused block",
    "graph, CUDA graph",
    "graph, fused block, CUDA graph",
)
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
WARM_UP_CALLS = 3

Function = Callable[[Tensor], Any]
Build = Callable[[], Function]


class BenchmarkError(RuntimeError):
    """A benchmark that cannot be run; the message, one line, says why and what to do."""


def network_of(architecture: str, image_size: int) -> SelfGradientNetwork:
    """An untrained self-gradient network, in eval mode on the CPU: speed does not depend on the weights."""
    torch.manual_seed(0)
    info = CheckpointInfo(
        architecture=architecture,
        class_names=tuple("0123456789"),
        image_size=(image_size, image_size),
        mean=(0.49, 0.48, 0.45),
        std=(0.25, 0.24, 0.26),
        dataset="random pictures",
        method="self-gradient",
        epsilon=8 / 255,
        block=BlockConfig(5, 8 / 255, "rms"),
        seed=0,
    )
    return build_model(info).eval().requires_grad_(False)


def graph_of(
    network: SelfGradientNetwork, image_size: int, device: torch.device, dtype: torch.dtype, fused: bool
) -> fx.GraphModule:
    """Both passes as the one graph that is exported, weights worked out, on the device; float32 in and out.

    network: in float32
    dtype:   of the convolutions
    fused:   with the block's fused kernel
    """
    network = copy.deepcopy(network)  # a graph shares the network's weights, which are about to be moved
    graph = capture(passes_of(network), (image_size, image_size))
    if fused:
        fuse_block(graph, network.block)
    rewrite(graph)
    if dtype != torch.float32:
        lower_precision(graph, dtype)
    store_weights(graph)  # flipped and scaled ones would be worked out again at every call
    for node in graph.graph.nodes:
        if "device" in node.kwargs:  # constants are made where they were when the graph was captured
            node.update_kwarg("device", device)
    graph.recompile()
    return graph.to(device)


def contenders(
    network: SelfGradientNetwork, image_size: int, device: torch.device, dtype: torch.dtype, images: Tensor
) -> dict[str, Build]:
    """What is compared, by name: how each is made, compiled and captured for these images.

    network: in float32; it is moved to the device
    images:  (N, 3, image_size, image_size) float32
    """
    plain = graph_of(network, image_size, device, dtype, fused=False)
    fused = graph_of(network, image_size, device, dtype, fused=True)
    network = network.to(device, dtype).to(memory_format=torch.channels_last)

    def one_pass(images: Tensor) -> Tensor:
        return network.plain_logits(images.to(dtype))

    def both_passes(images: Tensor) -> Tensor:
        logits: Tensor = network(images.to(dtype))
        return logits

    builds: tuple[Build, ...] = (
        lambda: one_pass,
        lambda: both_passes,
        lambda: compiled(both_passes),
        lambda: compiled(plain),
        lambda: compiled(fused),
        lambda: in_cuda_graph(plain, images),
        lambda: in_cuda_graph(fused, images),
    )
    return dict(zip(CONTENDERS, builds, strict=True))


def compiled(function: Function) -> Function:
    result: Function = torch.compile(function, mode="max-autotune", dynamic=False)
    return result


def in_cuda_graph(function: Function, images: Tensor) -> Function:
    """The function's kernels as one CUDA graph, for images of this shape: no launch is paid for one by one."""
    given = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            function(given)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        outputs = function(given)

    def replay(images: Tensor) -> Any:
        given.copy_(images)
        recorded.replay()
        return outputs

    return replay


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

    A CUDA graph takes its memory when it is made; of max-autotune, what trying kernels out takes is counted too.
    """
    memory, functions = {}, {}
    for name, build in tqdm(builds.items(), desc="warming up", leave=False):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        functions[name] = build()
        for _ in range(WARM_UP_CALLS):
            functions[name](images)
        torch.cuda.synchronize()
        memory[name] = torch.cuda.max_memory_allocated() - before
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, function in functions.items():
            times[name].append(milliseconds(function, images, calls))
    return summary(times, memory)


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
    parser.add_argument("--arch", default="wrn-28-10", help="architecture (default: wrn-28-10)")
    parser.add_argument("--image-size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="batch sizes")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["tf32", "bf16"], help="number formats")
    parser.add_argument("--rounds", type=int, default=30, help="times that every contender is timed")
    parser.add_argument("--calls", type=int, default=20, help="calls that are timed together")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        device = ready_device()
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.gpu --arch {options.arch} --image-size {options.image_size}",
        "gpu": torch.cuda.get_device_name(device),
        "versions": current_versions(),
        "git_commit": commit(),
        "rounds": options.rounds,
        "results": {},
    }
    for precision in options.precisions:
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        dtype = PRECISIONS[precision]
        for batch in options.batches:
            images = torch.rand(batch, 3, options.image_size, options.image_size, device=device)
            network = network_of(options.arch, options.image_size)
            with torch.no_grad():
                compared = contenders(network, options.image_size, device, dtype, images)
                figures = measure(compared, images, options.rounds, options.calls)
            result["results"][f"{precision}, batch {batch}"] = figures
            print(f"\n{precision}, batch {batch}\n{table(figures)}", flush=True)
            options.output.parent.mkdir(exist_ok=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")  # what is there is kept if it is interrupted
    return 0


if __name__ == "__main__":
    sys.exit(main())
