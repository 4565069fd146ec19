"""Run one engine with one graph: a batch for each line of standard input.

    python -m benchmarks.engines.worker KIND FILE THREADS KERNELS

KIND is ort, ort-fused, openvino-f32, openvino-bf16, eager, compile, torchscript or aot. KERNELS is the library of
custom operators that ort-fused registers.

The program reads one number of pictures a line and answers each with a line of JSON: {"ms": ..., "peak_mb": ...}, or
{"error": ...}. It imports no engine but its own, so that its peak memory is that engine's.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.process import answer_lines, peak_mb
from sgn_serve.common.graph_format import INPUT
from sgn_serve.common.onnx_runtime import start_session

BatchRunner = Callable[[int], object]
"""A function that runs one batch of so many pictures."""

SEED = 0


def pictures(batch: int, size: tuple[int, ...]) -> Any:
    """Return random pictures, float32 in [0, 1], the same at every call.

    Args:
        batch: How many.
        size: Channels, height and width.
    """
    return np.random.default_rng(SEED).random((batch, *size), dtype=np.float32)


def onnx_runtime(path: str, threads: int, kernels: Path | None = None) -> BatchRunner:
    """Load a graph into ONNX Runtime.

    Args:
        path: The ONNX file.
        threads: CPU threads of one call.
        kernels: A library of custom operators to register.
    """
    # Its threads must not go on spinning after the run, on the cores of the engine whose turn is next.
    session = start_session(Path(path), threads, spinning="in a run", custom_operators=kernels)
    size = tuple(session.get_inputs()[0].shape[1:])
    return lambda batch: session.run(None, {INPUT: _cached(batch, size)})


def openvino(path: str, threads: int, precision: str) -> BatchRunner:
    """Load a graph into OpenVINO.

    Args:
        path: The ONNX file.
        threads: CPU threads of one call.
        precision: "f32" or "bf16".

    Raises:
        RuntimeError: OpenVINO computes in another precision on this processor.
    """
    import openvino as library

    # No other engine pins its threads. On a shared machine a pinned thread waits for whoever holds its core.
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled: Any = library.Core().compile_model(path, "CPU", hints)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used not in (precision, {"f32": "float32", "bf16": "bfloat16"}[precision]):
        raise RuntimeError(f"{precision} was asked for, but OpenVINO computes in {used} on this processor")
    request = compiled.create_infer_request()
    _, *size = compiled.input(0).partial_shape
    shape = tuple(item.get_length() for item in size)
    return lambda batch: request.infer([_cached(batch, shape)], share_inputs=True, share_outputs=True)


def pytorch(kind: str, path: str, threads: int) -> BatchRunner:
    """Load a checkpoint, a TorchScript file or an AOTInductor package into PyTorch.

    Args:
        kind: "eager", "compile", "torchscript" or "aot".
        path: The file.
        threads: CPU threads of one call.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    module: Any
    if kind == "torchscript":
        module = torch.jit.load(path)
    elif kind == "aot":
        module = torch._inductor.aoti_load_package(path)
    else:
        from export.network_passes import passes_of
        from training.checkpoint import load_checkpoint

        module = passes_of(load_checkpoint(Path(path))[0])
        if kind == "compile":
            module = torch.compile(module, dynamic=False)
    return lambda batch: module(torch.from_numpy(_cached(batch, (3, 32, 32))))


ENGINES: dict[str, Callable[[str, int], BatchRunner]] = {
    "ort": onnx_runtime,
    "openvino-f32": lambda path, threads: openvino(path, threads, "f32"),
    "openvino-bf16": lambda path, threads: openvino(path, threads, "bf16"),
    **{
        kind: lambda path, threads, kind=kind: pytorch(kind, path, threads)  # type: ignore[misc]
        for kind in ("eager", "compile", "torchscript", "aot")
    },
}

_pictures: dict[int, Any] = {}


def _cached(batch: int, size: tuple[int, ...]) -> Any:
    if batch not in _pictures:
        _pictures[batch] = pictures(batch, size)
    return _pictures[batch]


def main() -> int:
    """Answer standard input line by line, and return the exit status."""
    kind, path, threads, kernels = sys.argv[1:]
    start = partial(onnx_runtime, kernels=Path(kernels)) if kind == "ort-fused" else ENGINES[kind]
    run: BatchRunner | None = None

    def answer(line: str) -> dict[str, Any]:
        nonlocal run
        run = run or start(path, int(threads))
        started = time.perf_counter()
        run(int(line))
        milliseconds = 1000 * (time.perf_counter() - started)
        return {"ms": milliseconds, "peak_mb": peak_mb()}

    return answer_lines(answer)


if __name__ == "__main__":
    sys.exit(main())
