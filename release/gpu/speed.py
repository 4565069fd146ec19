"""Time both passes with benchmarks.gpu, one process for each tier of contenders, important ones first.

Tiers are apart because a kernel that no GPU has run yet may leave its process unable to use the GPU.
"""

import json
import sys
from typing import Any

from benchmarks.gpu.contenders import CONTENDERS, ONNX_RUNTIME, REFERENCE, TIERS, network_of
from release.gpu import flops
from release.gpu.stage import Run, main
from release.gpu.supervise import supervise

FILE = "benchmark.json"
IMAGE_SIZE = (32, 8)
"""Height and width in pixels: in a run, in a rehearsal."""
ARCHITECTURES = (("wrn-16-2", "wrn-28-10"), ("wrn-10-1",))
"""Networks that are timed: in a run, in a rehearsal."""
OPTIONS = (
    ("--precisions", "bf16", "tf32", "--batches", "1", "256", "--rounds", "10", "--calls", "5"),
    ("--precisions", "tf32", "--batches", "1", "2", "--rounds", "2", "--calls", "1"),
)
"""Options of the benchmark: in a run, in a rehearsal. Few rounds, as a WRN-28-10's passes take tens of milliseconds."""
REHEARSED_TIERS = TIERS[:2]
"""Tiers of a rehearsal. The others compile for minutes on a CPU, or need ONNX Runtime for a GPU."""
PASSES = {REFERENCE: "one pass"}
"""Contenders that do not compute both passes."""
END_SECONDS = 6.0
"""Seconds kept for the end of the stage."""
FEWEST_SECONDS = 8.0
"""Least time with which a tier is started: PyTorch alone takes seconds to start."""


def time_passes(run: Run) -> None:
    """Run the benchmark tier by tier while there is time. Record each figure with its share of the measured peak.

    Raises:
        Skip: There is no GPU.
        RuntimeError: Nothing was measured.
    """
    device = run.device()
    operations = {
        architecture: flops.of_network(network_of(architecture, IMAGE_SIZE[run.rehearse]), IMAGE_SIZE[run.rehearse])
        for architecture in ARCHITECTURES[run.rehearse]
    }
    path, reasons = run.out / FILE, {}
    for tier in REHEARSED_TIERS if run.rehearse else TIERS:
        seconds = run.seconds_left() - END_SECONDS
        if seconds < FEWEST_SECONDS:
            reasons[", ".join(tier)] = "the time was up"
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--contenders", *tier, "--seconds", f"{seconds:.0f}"]
        command += ["--device", device.type, "--out", str(path), "--image-size", str(IMAGE_SIZE[run.rehearse])]
        command += ["--arch", *ARCHITECTURES[run.rehearse]]
        outcome = supervise([*command, *OPTIONS[run.rehearse]], seconds, run.log)
        if outcome.status != 0:
            reasons[", ".join(tier)] = "the time was up" if outcome.overran else outcome.reason[:300]
        if path.is_file():
            record(run, json.loads(path.read_text()), operations)
    run.record(groups_left_out=reasons)
    if not path.is_file():
        raise RuntimeError(next(iter(reasons.values()), "nothing was measured"))


def record(run: Run, benchmark: dict[str, Any], operations: dict[str, dict[str, float]]) -> None:
    """Record best times, TFLOP/s and shares of the measured peak of the same precision.

    Args:
        run: The stage's view of the run.
        benchmark: The file that benchmarks.gpu writes.
        operations: Operations for one picture by architecture, as flops.of_network counts them.
    """
    peaks = run.figures_of("peak")
    rows: dict[str, dict[str, Any]] = {}
    for key, contenders in benchmark["results"].items():
        architecture, precision, batch = key.split(", ")
        pictures, peak = int(batch.removeprefix("batch ")), peaks.get(f"{precision}_matmul_tflops")
        rows[key] = {}
        for name, row in contenders.items():
            work = pictures * operations[architecture][PASSES.get(name, "both passes")]
            rate = work / row["best_ms"] / 1e9
            rows[key][name] = {
                "best_ms": row["best_ms"],
                "ratio": row["ratio"],
                "tflops": round(rate, 3),
                "share_of_peak": round(rate / peak, 4) if peak else None,
            }
    run.record(
        headline(rows),
        operations_per_picture=operations,
        best=rows,
        left_out=benchmark["left_out"],
        contenders=[*CONTENDERS, ONNX_RUNTIME],
    )


def headline(rows: dict[str, dict[str, Any]]) -> str:
    """Return one sentence: the number of figures, and the least time of both passes on one picture."""
    measured = sum(len(row) for row in rows.values())
    single = [
        (row["best_ms"], name, key)
        for key, contenders in rows.items()
        for name, row in contenders.items()
        if key.endswith("batch 1") and name != REFERENCE
    ]
    if not single:
        return f"{measured} figures"
    best, name, key = min(single)
    return f"{measured} figures; both passes of one picture take {best:g} ms at best ({key}, {name})"


if __name__ == "__main__":
    sys.exit(main(time_passes))
