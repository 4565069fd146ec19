"""Export networks of many families, and measure what both passes cost in ONNX Runtime beside one plain pass.

    nice -n 10 python -m benchmarks.families

Writes results/families.json after every family. A run that was interrupted goes on where it stopped; --again measures
anew. Weights are random: they change neither the time nor whether a network can be exported.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.utils
import torch

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from benchmarks.untrained import untrained_network
from export.errors import ExportError
from export.exporter import export_onnx
from sgn_serve.common.graph_format import INPUT, LOGITS, PLAIN_LOGITS
from sgn_serve.common.markdown import table
from sgn_serve.common.onnx_runtime import start_session
from training.checkpoint import save_checkpoint
from training.common import run_files
from training.networks.errors import ArchitectureError
from training.networks.timm_networks import timm_input_size

RESULT = ROOT / "results" / "families.json"
FAMILIES = (
    "resnet18",
    "resnext50_32x4d",
    "seresnet50",
    "regnetx_002",
    "regnety_002",
    "repvgg_a0",
    "densenet121",
    "vgg11_bn",
    "mobilenetv2_050",
    "mobilenetv3_small_100",
    "mnasnet_100",
    "efficientnet_b0",
    "ghostnet_100",
    "mobileone_s0",
    "convnextv2_atto",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "fastvit_t8",
    "poolformer_s12",
    "mixer_s32_224",
    "resmlp_12_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
    "efficientformerv2_s0",
)
"""One small network of each family of timm."""
BATCHES = (1, 8)
ROUNDS = 3
LEAST_SECONDS = 1.0
"""Processor time of one measurement, and at least one call."""


def measure(architecture: str, folder: Path) -> dict[str, Any]:
    """Return one row: what the export of a timm network gave, and what its passes cost.

    Args:
        architecture: The name in timm.
        folder: Where files may be written.
    """
    size = timm_input_size(architecture)
    if size is None:
        raise BenchmarkError(f"timm does not say which pictures {architecture} takes, or is missing: pip install timm")
    row: dict[str, Any] = {"image_size": size}
    try:
        network, info = untrained_network(f"timm:{architecture}", size)
    except ArchitectureError as error:
        return {**row, "refused": str(error)}
    checkpoint, graph = folder / run_files.CHECKPOINT, folder / "model.onnx"
    save_checkpoint(checkpoint, network.state_dict(), info)
    start = time.process_time()
    try:
        verification = export_onnx(checkpoint, graph)
    except ExportError as error:
        return {**row, "refused": str(error), "export_cpu_s": round(time.process_time() - start, 1)}
    row["export_cpu_s"] = round(time.process_time() - start, 1)
    row["nodes"] = len(onnx.load(graph).graph.node)
    for check in verification.checks:
        row[f"{check.output}_error"] = max(row.get(f"{check.output}_error", 0.0), float(f"{check.worst_error:.1e}"))
    plain = folder / "plain.onnx"
    onnx.utils.extract_model(str(graph), str(plain), [INPUT], [PLAIN_LOGITS], check_model=False)
    return {**row, "cost": cost(graph, plain, size)}


def cost(both: Path, plain: Path, size: int) -> dict[str, dict[str, float]]:
    """Return processor time of one thread by batch size: of both passes, of a plain pass, and their ratio.

    The two alternate in each round, and the median of the rounds is kept, so that the machine's drift cancels.
    """
    sessions = {name: start_session(path, 1) for name, path in (("both", both), ("plain", plain))}
    outputs = {"both": LOGITS, "plain": PLAIN_LOGITS}
    found: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        images = np.random.default_rng(0).random((batch, 3, size, size), dtype=np.float32)
        times: dict[str, list[float]] = {name: [] for name in sessions}

        def call(name: str, images: np.ndarray[Any, Any] = images) -> None:
            sessions[name].run([outputs[name]], {INPUT: images})

        for name in sessions:
            call(name)  # the first call allocates
        for _ in range(ROUNDS):
            for name in sessions:
                times[name].append(cpu_ms(lambda name=name: call(name)))  # type: ignore[misc]
        rounds = [both / plain for both, plain in zip(times["both"], times["plain"], strict=True)]
        found[str(batch)] = {
            "both_ms": round(statistics.median(times["both"]), 2),
            "plain_ms": round(statistics.median(times["plain"]), 2),
            "ratio": round(statistics.median(rounds), 2),
            "lowest_ratio": round(min(rounds), 2),
            "highest_ratio": round(max(rounds), 2),
        }
    return found


def cpu_ms(call: Callable[[], None]) -> float:
    """Return the mean processor time of one call, in milliseconds."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < LEAST_SECONDS or not calls:
        call()
        calls += 1
    return 1000 * spent / calls


def families_table(result: dict[str, Any]) -> str:
    """Return the rows of a result as a Markdown table."""
    rows: list[tuple[str, ...]] = []
    for name, row in result["families"].items():
        if "refused" in row:
            rows.append((f"`{name}`", str(row["image_size"]), f"refused: {row['refused']}", "", "", ""))
            continue
        error = max(row["logits_error"], row["plain_logits_error"])
        ratios = [f"{row['cost'][str(batch)]['ratio']:.1f}" for batch in BATCHES]
        rows.append((f"`{name}`", str(row["image_size"]), f"{error:.0e}", f"{row['export_cpu_s']:.0f}", *ratios))
    header = ("network of timm", "pixels", "relative error of logits", "export, CPU s", "batch 1", "batch 8")
    return table(header, rows, "lrlrrr")


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.families", __doc__)
    parser.add_argument("families", nargs="*", default=FAMILIES, help="networks of timm (default: one of each family)")
    parser.add_argument("--again", action="store_true", help="measure families that the result has already")
    add_out(parser, RESULT, "the file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = read(options.out)
    for name in options.families:
        if name in result["families"] and not options.again:
            print(f"{name}: is in {options.out} already; measure it anew with --again")
            continue
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, Path(folder))
        row["git_commit"] = commit()
        row["processor"] = processor()  # a run may go on on another machine
        row["load_average"] = round(os.getloadavg()[0], 1)
        result["families"][name] = row
        result.update(command="python -m benchmarks.families", threads=1, rounds=ROUNDS)
        result["versions"] = versions(("torch", "timm", "onnx", "onnxscript", "onnxruntime"))
        write_result(options.out, result)
    print(families_table(result))
    return 0


def read(path: Path) -> dict[str, Any]:
    """Return the result in a file, or an empty one where there is none."""
    if not path.exists():
        return {"families": {}}
    result: dict[str, Any] = json.loads(path.read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
