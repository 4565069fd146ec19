"""The least time of both passes: counted operations at the speed of this machine's matrix products.

No bound for whoever multiplies less, as Winograd's convolutions do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engines.files import SHAPE
from training.checkpoint import load_checkpoint


def arithmetic(checkpoint: Path) -> dict[str, float]:
    """Counted floating-point operations a picture, in billions: one pass, and both with the input gradient."""
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
    """How long the counted operations take at the speed of this machine's matrix products, as rows of the table.

    gflop:        of arithmetic()
    peaks:        of matrix_products.peaks()
    reference_ms: best time of the reference, where there is one
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
    """To an architecture's figures, at every batch size; reference names the row that ratios are to."""
    measured["floor"] = {
        batch: floor(measured["gflop_per_picture"], peaks, int(batch), figures.get(reference, {}).get("best_ms"))
        for batch, figures in measured["batches"].items()
    }
