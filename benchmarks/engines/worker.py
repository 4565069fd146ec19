"""One engine with one graph, in a process of its own that runs a batch whenever it is told to.

    PYTHON benchmarks/engines/worker.py KIND FILE THREADS

KIND is ort, ort-fused, openvino-f32, openvino-bf16, ort-openvino-f32, ort-openvino-bf16, eager, compile, torchscript or
aot. Reads one number of pictures a line and answers each with a line of JSON: {"ms": ..., "peak_mb": ...}, or
{"error": ...}. It imports no engine but its own, so that its peak memory is that engine's.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[int], object]
"""Runs one batch of so many pictures."""

SEED = 0
KERNELS = Path(__file__).parents[2] / "build" / "kernels" / "libsgn_onnxruntime.so"
"""Of export.kernels.onnx_functions.library_path, which would take PyTorch along."""


def pictures(batch: int, size: tuple[int, ...]) -> Any:
    return np.random.default_rng(SEED).random((batch, *size), dtype=np.float32)


def onnx_runtime(path: str, threads: int, kernels: Path | None = None) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    if kernels is not None:
        settings.register_custom_ops_library(str(kernels))
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Else its threads spin on when the run is over, on the cores of the engine whose turn is next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    size = tuple(session.get_inputs()[0].shape[1:])
    return lambda batch: session.run(None, {"image": _cached(batch, size)})


def openvino(path: str, threads: int, precision: str) -> Run:
    import openvino as library

    # Not pinned, as no other engine is: on a shared machine a pinned thread waits for whoever holds its core.
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


def onnx_runtime_openvino(path: str, threads: int, precision: str) -> Run:
    """By ONNX Runtime's OpenVINO build, a package of its own that cannot stand beside the usual one."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    provider = "OpenVINOExecutionProvider"
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }
    options = {"device_type": "CPU", "load_config": json.dumps({"CPU": hints})}
    session = onnxruntime.InferenceSession(path, settings, providers=[(provider, options)])
    if provider not in session.get_providers():
        raise RuntimeError(
            f"this Python's ONNX Runtime has no {provider}: pip install onnxruntime-openvino into another"
        )
    size = tuple(session.get_inputs()[0].shape[1:])
    return lambda batch: session.run(None, {"image": _cached(batch, size)})


def pytorch(kind: str, path: str, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    module: Any
    if kind == "torchscript":
        module = torch.jit.load(path)
    elif kind == "aot":
        module = torch._inductor.aoti_load_package(path)
    else:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from export.passes import passes_of
        from training.checkpoint import load_checkpoint

        module = passes_of(load_checkpoint(Path(path))[0])
        if kind == "compile":
            module = torch.compile(module, dynamic=False)
    return lambda batch: module(torch.from_numpy(_cached(batch, (3, 32, 32))))


ENGINES: dict[str, Callable[[str, int], Run]] = {
    "ort": onnx_runtime,
    "ort-fused": lambda path, threads: onnx_runtime(path, threads, KERNELS),
    "openvino-f32": lambda path, threads: openvino(path, threads, "f32"),
    "openvino-bf16": lambda path, threads: openvino(path, threads, "bf16"),
    "ort-openvino-f32": lambda path, threads: onnx_runtime_openvino(path, threads, "f32"),
    "ort-openvino-bf16": lambda path, threads: onnx_runtime_openvino(path, threads, "bf16"),
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


def _answer(line: str, run: Run) -> dict[str, Any]:
    start = time.perf_counter()
    run(int(line))
    milliseconds = 1000 * (time.perf_counter() - start)
    return {"ms": milliseconds, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Peak memory of this process, the engine's libraries included.

    Not getrusage's: that remembers what the process was before it became this program.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> int:
    kind, path, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    run: Run | None = None
    for line in sys.stdin:
        try:
            run = run or ENGINES[kind](path, int(threads))
            answer = _answer(line, run)
        except Exception as error:  # of any engine; the benchmark goes on without it
            answer = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
