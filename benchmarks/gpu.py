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
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import torch
from torch import Tensor, fx
from tqdm import tqdm

from benchmarks.provenance import commit
from export.aot import save_aot
from export.capture import capture, output_names_of, passes_of
from export.formats import ONNX
from export.kernels import operators
from export.kernels.fuse import fuse_block
from export.placement import move_graph
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
    "graph, AOTInductor",
)
ONNX_RUNTIME = "graph, ONNX Runtime"
"""A contender where there is a build for GPUs, but in bf16, which the ONNX export does not have."""
ONNX_RUNTIME_PRECISIONS = ("float32", "tf32", "fp16")
CUDA_PROVIDER = "CUDAExecutionProvider"
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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


def rewritten_graph(
    network: SelfGradientNetwork, image_size: int, dtype: torch.dtype, fused: bool = False
) -> fx.GraphModule:
    """Both passes as the one graph that is exported, float32 in and out, on the CPU; the network stays as it is.

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
    return graph


def on_device(graph: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The graph itself, weights worked out, on the device."""
    store_weights(graph)  # flipped and scaled ones would be worked out again at every call
    move_graph(graph, device)
    return graph


def contenders(
    network: SelfGradientNetwork, image_size: int, device: torch.device, dtype: torch.dtype, images: Tensor
) -> dict[str, Build]:
    """What is compared, by name, but for ONNX Runtime: how each is made, compiled and captured for these images.

    network: in float32; it is moved to the device
    images:  (N, 3, image_size, image_size) float32
    """
    plain = on_device(rewritten_graph(network, image_size, dtype), device)
    fused = on_device(rewritten_graph(network, image_size, dtype, fused=True), device)
    packaged = rewritten_graph(network, image_size, dtype)
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
        lambda: in_aot_package(packaged, device),
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


def in_aot_package(graph: fx.GraphModule, device: torch.device) -> Function:
    """The graph, which is used up, as the export packages it with AOTInductor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_aot(graph, {}, path, device)
        package: Function = torch._inductor.aoti_load_package(str(path))
    return package


def in_onnx_runtime(graph: fx.GraphModule, images: Tensor, provider: str, settings: Mapping[str, str]) -> Function:
    """The graph, which is used up, as the export writes it for ONNX Runtime; for images where these are.

    returns: a function that writes over what it returned before: logits, plain logits, self-gradient, on the device
    raises BenchmarkError where the provider is not active
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = output_names_of(graph)
        classes = graph.graph.output_node().args[0][0].meta["val"].shape[1]  # type: ignore[index, union-attr]
        ONNX.save(graph, {}, path)
        session = onnxruntime.InferenceSession(str(path), providers=[(provider, dict(settings))])
    if session.get_providers()[0] != provider:
        raise BenchmarkError(f"ONNX Runtime did not start its {provider}: see the lines above, or uninstall it")
    shapes = {"logits": (len(images), classes), "plain_logits": (len(images), classes), "self_gradient": images.shape}
    outputs = [torch.empty(shapes[name], device=images.device) for name in names]
    given = images.clone()
    binding = session.io_binding()
    kind, number = images.device.type, images.device.index or 0
    binding.bind_input("image", kind, number, numpy.float32, tuple(given.shape), given.data_ptr())
    for name, output in zip(names, outputs, strict=True):
        binding.bind_output(name, kind, number, numpy.float32, tuple(output.shape), output.data_ptr())

    def run(images: Tensor) -> list[Tensor]:
        given.copy_(images)
        if kind == "cuda":
            torch.cuda.current_stream().synchronize()  # ONNX Runtime computes on a stream of its own
        session.run_with_iobinding(binding)
        return outputs

    return run


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


if __name__ == "__main__":
    sys.exit(main())
