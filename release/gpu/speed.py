"""Time both passes with benchmarks.gpu, a process for each group of contenders, the important ones first.

A process of its own for each: a kernel that no GPU has run may leave a GPU's context unusable for what comes after it.
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
ARCHITECTURES = (("wrn-16-2", "wrn-28-10"), ("wrn-10-1",))
OPTIONS = (
    ("--precisions", "bf16", "tf32", "--batches", "1", "256", "--rounds", "10", "--calls", "5"),
    ("--precisions", "tf32", "--batches", "1", "2", "--rounds", "2", "--calls", "1"),
)
"""Of the benchmark: in a run, in a rehearsal. Few rounds: a WRN-28-10's two passes take tens of milliseconds."""
REHEARSED_TIERS = TIERS[:2]
"""The others compile for minutes on a CPU, or need ONNX Runtime for a GPU."""
PASSES = {REFERENCE: "one pass"}
END_SECONDS = 6.0
FEWEST_SECONDS = 8.0
"""A process that would get less is not started: PyTorch alone takes seconds to start."""


def time_passes(run: Run) -> None:
    """Run the benchmark while there is time, and record each figure with its share of the measured peak.

    Raises:
        Skip: there is no GPU.
        RuntimeError: nothing could be measured.
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
        command += ["--device", device.type, "--output", str(path), "--image-size", str(IMAGE_SIZE[run.rehearse])]
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
    """Record best times, TFLOP/s and shares of the measured peak of the same precision."""
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
    """Return one sentence: how many figures there are, and both passes of one picture by the fastest contender."""
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
