"""Measure the device's peak speeds, so that figures can be given as shares of them."""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from release.gpu.stage import Run, main

ROUNDS = 5
"""Number of times that each operation is timed."""
CALLS = 10
"""Calls that are timed together."""
MATRIX = (8192, 256)
"""Side of the square matrices: in a run, in a rehearsal."""
CONVOLUTIONS = ((64, 32), (128, 32), (160, 32), (256, 16), (320, 16), (512, 16), (640, 8))
"""Pairs of channels and picture side in pixels: the networks' own, and wider ones."""
CONVOLUTION_BATCH = (256, 2)
"""Batch size of the convolutions: in a run, in a rehearsal."""
COPY_BYTES = (2**31, 2**24)
"""Bytes that are copied: in a run, in a rehearsal."""


def measure(run: Run) -> None:
    """Record TFLOP/s of matrix products and of 3x3 convolutions, and GB/s of a copy within the device's memory.

    A copied byte counts twice, once for the read and once for the write.

    Raises:
        Skip: There is no GPU.
    """
    device = run.device()
    side, batch, size = (values[run.rehearse] for values in (MATRIX, CONVOLUTION_BATCH, COPY_BYTES))
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    figures: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32)):
        # The numbers are random, because products of zeros run faster than products of real data.
        one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        seconds = seconds_of(lambda a=one, b=other: a @ b, device)  # type: ignore[misc]
        figures[f"{name}_matmul_tflops"] = round(2 * side**3 / seconds / 1e12, 3)
        run.record(**figures)
        del one, other
        speeds = {}
        for channels, pixels in CONVOLUTIONS[:1] if run.rehearse else CONVOLUTIONS:
            speeds[f"{channels} channels, {pixels}x{pixels}"] = convolution_tflops(
                (batch, channels, pixels, pixels), dtype, device
            )
        best = max(speeds, key=lambda shape: speeds[shape])
        figures[f"{name}_convolution_tflops"] = speeds[best]
        run.record(**{f"{name}_convolutions_tflops": speeds})
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    figures["copy_gb_per_second"] = round(2 * size / seconds_of(lambda: target.copy_(source), device) / 1e9, 1)
    run.record(
        f"bf16 {figures['bf16_matmul_tflops']:g} TFLOP/s in matrix products, "
        f"{figures['bf16_convolution_tflops']:g} in convolutions",
        **figures,
    )


def convolution_tflops(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Return the TFLOP/s of a 3x3 convolution that keeps the number of channels, in channels-last layout.

    Args:
        shape: The input's shape, (N, C, H, W).
        dtype: The numbers' type.
        device: Where to measure.
    """
    batch, channels, height, width = shape
    images = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    flops = 2 * batch * height * width * channels * channels * 9
    return round(flops / seconds_of(lambda: F.conv2d(images, weight, padding=1), device) / 1e12, 3)


def seconds_of(function: Callable[[], Tensor], device: torch.device) -> float:
    """Return the seconds of one call: the median over rounds of the mean over calls, after three warm-up calls."""
    for _ in range(3):
        function()
    times = []
    for _ in range(ROUNDS):
        _wait(device)
        began = time.perf_counter()
        for _ in range(CALLS):
            function()
        _wait(device)
        times.append((time.perf_counter() - began) / CALLS)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main(measure))
