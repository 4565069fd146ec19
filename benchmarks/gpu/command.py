"""Time both passes on an NVIDIA GPU: the exported graph, with and without fused kernels, beside the alternatives.

    make kernels                   # for the rows of the fused block
    pip install onnxruntime-gpu    # instead of onnxruntime, for the row of ONNX Runtime
    python -m benchmarks.gpu

Writes results/gpu.json. A file of the same machine, versions and commit is continued.

The contenders of a tier are timed in turn, round by round, with CUDA events. Ratios are to one eager pass, block off,
in the same round. The tiers that cost least to build come first, for all networks, precisions and batch sizes. The file
gives the reason why a contender is left out.

Every contender takes float32 pictures on the GPU. In bf16 and fp16, PyTorch casts the whole network itself, while the
graph is lowered as the export lowers it. ONNX Runtime waits for the GPU at the end of every call; the others do not.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.command_line import ROOT, add_out, command_parser, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.gpu.contenders import (
    CONTENDERS,
    ONNX_RUNTIME,
    REFERENCE,
    TIERS,
    WARM_UP_CALLS,
    Build,
    Function,
    contenders,
    graph_of,
    in_onnx_runtime,
    network_of,
)
from benchmarks.provenance import commit
from sgn_serve.common import markdown
from sgn_serve.common.error_text import first_line, say
from training.common.errors import TrainingError
from training.common.provenance import current_versions
from training.networks.self_gradient import SelfGradientNetwork

RESULT = ROOT / "results" / "gpu.json"
ONNX_RUNTIME_PRECISIONS = ("float32", "tf32", "fp16")
CUDA_PROVIDER = "CUDAExecutionProvider"
NAMES = [*CONTENDERS, ONNX_RUNTIME]
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENOUGH_ROUNDS = 3
"""Rounds that are measured even after the time is up."""
TIME_IS_UP = "the time was up"


@dataclass(frozen=True)
class Effort:
    """Limits of a measurement.

    Attributes:
        rounds: How often every contender is timed.
        calls: Calls that are timed together.
        deadline: A moment of time.monotonic. After it no contender is built but the reference, and no round is started
            but the first ENOUGH_ROUNDS.
    """

    rounds: int
    calls: int
    deadline: float = math.inf

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


def milliseconds(function: Function, images: Tensor, calls: int) -> float:
    """Return the milliseconds of one call, as the mean of `calls` in a row.

    CUDA events time images on the GPU, the wall clock times images on the CPU.
    """
    if images.device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            function(images)
        return 1000 * (time.perf_counter() - began) / calls
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function(images)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def measure(
    builds: Mapping[str, Build], images: Tensor, effort: Effort
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Time all contenders in turn, and measure the memory that building and calling each one adds.

    The peak includes what max-autotune needs to try kernels out, and what libraries take outside PyTorch's allocator. A
    CUDA graph takes its memory when it is built.

    Args:
        builds: The contenders by name, the reference among them.
        images: (N, 3, H, W) float32, on the device to measure.
        effort: The number of rounds and calls, and the deadline.

    Returns:
        The figures by contender, and by contender the reason why it was left out.

    Raises:
        BenchmarkError: The reference itself fails.
    """
    memory, functions, left_out = {}, {}, {}
    for name, build in tqdm(builds.items(), desc="warming up", leave=False):
        if effort.over and name != REFERENCE:
            left_out[name] = TIME_IS_UP
            continue
        try:
            functions[name], memory[name] = warmed_up(build, images)
        except Exception as error:  # compilers, drivers and engines raise errors of any type
            if name == REFERENCE:
                raise BenchmarkError(f"{name}: {first_line(error)}") from error
            left_out[name] = f"{type(error).__name__}: {first_line(error)}"[:300]
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in tqdm(range(effort.rounds), desc="rounds", leave=False):
        if effort.over and index >= ENOUGH_ROUNDS:
            break
        for name, function in functions.items():
            times[name].append(milliseconds(function, images, effort.calls))
    return summary(times, memory), left_out


def warmed_up(build: Build, images: Tensor) -> tuple[Function, int]:
    """Build a contender and call it a few times.

    Returns:
        The contender, and the peak of GPU memory that this added, in bytes; 0 on the CPU.
    """
    if images.device.type != "cuda":
        function, memory = build(), 0
        for _ in range(WARM_UP_CALLS):
            function(images)
        return function, memory
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() + memory_beside_pytorch()
    function = build()
    for _ in range(WARM_UP_CALLS):
        function(images)
    torch.cuda.synchronize()
    return function, torch.cuda.max_memory_allocated() + memory_beside_pytorch() - before


def memory_beside_pytorch() -> int:
    """Return the bytes of GPU memory in use, by any process, that PyTorch's allocator did not reserve."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def summary(times: Mapping[str, list[float]], memory: Mapping[str, int]) -> dict[str, Any]:
    """Summarise the rounds.

    Args:
        times: Milliseconds of a call by contender, one a round.
        memory: Peak memory by contender, bytes.

    Returns:
        A mapping by contender: best and median time, the median over rounds of the ratio to the reference, peak memory.
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


def ready_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        BenchmarkError: PyTorch has no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("no NVIDIA GPU that PyTorch can use: this benchmark needs one; for the CPU: make bench")
    return torch.device(name)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("benchmarks.gpu", __doc__)
    parser.add_argument("--arch", nargs="+", default=["wrn-16-2", "wrn-28-10"], help="architectures")
    parser.add_argument("--image-size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="batch sizes")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["tf32", "bf16", "fp16"], help="formats")
    parser.add_argument("--rounds", type=int, default=30, help="how often every contender is timed")
    parser.add_argument("--calls", type=int, default=20, help="calls that are timed together")
    parser.add_argument(
        "--contenders", nargs="+", choices=NAMES, default=NAMES, help="rows; the reference is always measured"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="start nothing new after so many seconds")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses without a GPU")
    add_out(parser, RESULT, "JSON file to write")
    return parser.parse_args(arguments)


def started(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result to continue.

    Args:
        path: The JSON file; it may be missing.
        run: The machine, versions, commit and options.

    Returns:
        The file's content if it is of this run, else the run without results.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {}
    results, left_out = found.pop("results", {}), found.pop("left_out", {})
    same = found == run
    return {**run, "results": results if same else {}, "left_out": left_out if same else {}}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after an error line."""
    options = parse_arguments(arguments)
    effort = Effort(options.rounds, options.calls, time.monotonic() + options.seconds)
    try:
        device = ready_device(options.device)
        result = started(
            options.out,
            {
                "command": "python -m benchmarks.gpu",
                "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none: a rehearsal on the CPU",
                "versions": current_versions(),
                "git_commit": commit(),
                "image_size": options.image_size,
                "rounds": options.rounds,
                "calls": options.calls,
            },
        )
        for tier in TIERS:
            for architecture in options.arch:
                for precision in options.precisions:
                    for batch in options.batches:
                        key = f"{architecture}, {precision}, batch {batch}"
                        rows = result["results"].setdefault(key, {})
                        missing = [name for name in tier if name in options.contenders and name not in rows]
                        if precision not in ONNX_RUNTIME_PRECISIONS:
                            missing = [name for name in missing if name != ONNX_RUNTIME]
                        if effort.over or not missing:
                            continue
                        found, left_out = measured(
                            Setting(architecture, options.image_size, precision, batch, device), missing, effort
                        )
                        rows |= {name: row for name, row in found.items() if name not in rows}
                        result["left_out"].setdefault(key, {}).update(left_out)
                        for name in rows:
                            result["left_out"][key].pop(name, None)
                        write_result(options.out, result)
                        print(f"\n{key}\n{table(found)}", flush=True)
                        for name, reason in left_out.items():
                            print(f"left out: {name}: {reason}", flush=True)
    except (BenchmarkError, TrainingError) as error:
        say(f"error: {error}")
        return error.exit_status
    return 0


@dataclass(frozen=True)
class Setting:
    """A network and its input, in one number format.

    Attributes:
        architecture: The backbone's name.
        image_size: Height and width in pixels.
        precision: A key of PRECISIONS.
        batch: The batch size.
        device: Where to measure.
    """

    architecture: str
    image_size: int
    precision: str
    batch: int
    device: torch.device


def measured(
    setting: Setting, names: Sequence[str], effort: Effort
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Build and time contenders in one setting.

    Args:
        setting: The network, the precision and the batch size.
        names: Contenders to measure; the reference is measured with them.
        effort: The number of rounds and calls, and the deadline.

    Returns:
        The figures by contender, and by contender the reason why it was left out.

    Raises:
        BenchmarkError: The reference itself fails.
    """
    tf32 = setting.precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch._dynamo.reset()  # graphs compiled for other settings count towards its limits
    dtype, size = PRECISIONS[setting.precision], setting.image_size
    images = torch.rand(setting.batch, 3, size, size, device=setting.device)
    network = network_of(setting.architecture, size)
    with torch.no_grad():
        possible = contenders(network, size, setting.device, dtype, images)
        possible[ONNX_RUNTIME] = partial(onnx_runtime_contender, network, setting, images)
        builds = {name: build for name, build in possible.items() if name == REFERENCE or name in names}
        return measure(builds, images, effort)


def onnx_runtime_contender(network: SelfGradientNetwork, setting: Setting, images: Tensor) -> Function:
    """Build the contender of ONNX Runtime, on its CUDA provider.

    Raises:
        BenchmarkError: ONNX Runtime is not installed, or its build has no CUDA provider.
    """
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        raise BenchmarkError("ONNX Runtime is not installed") from None
    if CUDA_PROVIDER not in get_available_providers():
        raise BenchmarkError(f"the installed ONNX Runtime has no {CUDA_PROVIDER}: install onnxruntime-gpu")
    written = graph_of(network, setting.image_size, PRECISIONS[setting.precision])
    settings = {"device_id": "0", "use_tf32": str(int(setting.precision == "tf32"))}
    return in_onnx_runtime(written, images, CUDA_PROVIDER, settings)
