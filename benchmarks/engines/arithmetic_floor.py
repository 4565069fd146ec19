"""Compute the floor: the time of the counted operations at the speed of this machine's matrix products.

It is no bound for an engine that multiplies less, as Winograd's convolutions do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engines.files import SHAPE
from training.checkpoint import load_checkpoint


def arithmetic(checkpoint: Path) -> dict[str, float]:
    """Count floating-point operations a picture, in billions, of one pass and of both with the input gradient."""
    network, _ = load_checkpoint(checkpoint)
    images = torch.rand(1, *SHAPE)
    counted = {}
    for name, function in (("one pass", network.plain_logits), ("both passes", network)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(images)
        counted[name] = counter.get_total_flops() / 1e9
    return counted


def floor(
    gflop: Mapping[str, float], peaks: Mapping[str, Mapping[str, float]], batch: int, reference_ms: float | None
) -> dict[str, dict[str, float]]:
    """Return how long the counted operations take at the speed of this machine's matrix products.

    Args:
        gflop: Billions of operations a picture, from arithmetic().
        peaks: Billions of operations a second, from matrix_products.peaks().
        batch: The batch size.
        reference_ms: The best time of the reference in milliseconds, or None where there is none.

    Returns:
        The time, and the ratio to the reference, by the row's name.
    """
    rows = {}
    for passes, dtype in (("one pass", "float32"), ("both passes", "float32"), ("both passes", "bfloat16")):
        milliseconds = 1000 * batch * gflop[passes] / max(peaks[dtype].values())
        row = {"ms": round(milliseconds, 3)}
        if reference_ms is not None:
            row["ratio_of_best"] = round(milliseconds / reference_ms, 3)
        rows[f"floor: {passes}, {dtype}"] = row
    return rows


def add_floor(measured: dict[str, Any], peaks: Mapping[str, Mapping[str, float]], reference: str) -> None:
    """Add the floor at every batch size to an architecture's figures.

    Args:
        measured: The architecture's figures.
        peaks: Billions of operations a second, from matrix_products.peaks().
        reference: The name of the row that ratios are to.
    """
    measured["floor"] = {
        batch: floor(measured["gflop_per_picture"], peaks, int(batch), figures.get(reference, {}).get("best_ms"))
        for batch, figures in measured["batches"].items()
    }
