"""Measure how fast this machine's matrix products are."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch

from sgn_serve.common.onnx_runtime import start_session

SIZES = (512, 1024, 2048)
SECONDS = 1.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def peaks(threads: int, sizes: Sequence[int] = SIZES, seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Return the speed of the fastest product of two square matrices by dtype and library.

    Several libraries are measured, because none is the fastest on every processor: a floor that an engine's ordinary
    convolutions can beat would be none. ONNX Runtime has no bfloat16 products on a CPU.

    Args:
        threads: CPU threads of one product.
        sizes: Numbers of rows. Each is tried.
        seconds: How long each size, dtype and library is timed.

    Returns:
        Billions of operations a second.
    """
    torch.set_num_threads(threads)
    fastest: dict[str, dict[str, float]] = {name: {} for name in DTYPES}
    for size in sizes:
        products = {
            ("float32", "PyTorch"): _pytorch(size, torch.float32),
            ("bfloat16", "PyTorch"): _pytorch(size, torch.bfloat16),
            ("float32", "ONNX Runtime"): _onnx_runtime(size, threads),
        }
        for (dtype, library), product in products.items():
            speed = 2 * size**3 / _least_seconds(product, seconds) / 1e9
            fastest[dtype][library] = max(round(speed, 1), fastest[dtype].get(library, 0.0))
    return fastest


def _least_seconds(product: Callable[[], object], seconds: float) -> float:
    least, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        product()
        least = min(least, time.perf_counter() - start)
    return least


def _pytorch(size: int, dtype: torch.dtype) -> Callable[[], object]:
    left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
    return lambda: left @ right


def _onnx_runtime(size: int, threads: int) -> Callable[[], object]:
    matrix = np.random.default_rng(0).random((size, size), dtype=np.float32)
    names = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (size, size)) for name in "xy"]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "product", names[:1], names[1:], [onnx.numpy_helper.from_array(matrix, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = start_session(model.SerializeToString(), threads, spinning="in a run")
    return lambda: session.run(None, {"x": matrix})
