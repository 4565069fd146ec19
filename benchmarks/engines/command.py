"""Measure how long both passes take in every engine, as ratios to ONNX Runtime's single pass, in one run.

    python -m benchmarks.engines

Writes results/engines.json. Every engine has a process of its own and they take turns, so that all meet the same
disturbances. The result also holds the peak memory of each process, the counted arithmetic of the network, and the
speed of this machine's matrix products. The last two give the floor: the least time without a method that multiplies
less.

    python -m benchmarks.engines --data-root data/test

measures self_gradient=auto alone, over real pictures, and adds it to the result; see benchmarks/engines/auto_mode.py.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, thread_count, write_result
from benchmarks.engines import files, matrix_products
from benchmarks.engines.arithmetic_floor import add_floor, arithmetic
from benchmarks.engines.auto_mode import Task, auto_table, measure_auto
from benchmarks.engines.process import AskedProcess
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from export.check.pictures import PicturesError
from export.kernels.onnx_functions import library_path
from sgn_serve.common import markdown
from sgn_serve.common.error_text import first_line, say

RESULT = ROOT / "results" / "engines.json"
WORKER = "benchmarks.engines.worker"
REFERENCE = "block off: plain export, ONNX Runtime"
PACKAGES = ("torch", "onnxruntime", "openvino")
PAUSE_S = 0.05
"""Pause between two engines' turns, so that the threads of the one before stop spinning."""
SUFFIXES = {"aot": ".pt2", "openvino-f32": ".onnx", "openvino-bf16": ".onnx"}
"""File-name suffixes, by kind, for engines that recognise files by their names."""


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    Attributes:
        name: The row's title.
        kind: A kind that benchmarks/engines/worker.py knows.
        write: Writes the file that the engine runs. It takes the checkpoint's path and the file's.
    """

    name: str
    kind: str
    write: Callable[[Path, Path], None]


ENGINES = (
    Engine(REFERENCE, "ort", files.write_block_off(files.write_plain)),
    Engine("block off: ours, ONNX Runtime", "ort", files.write_block_off(files.write_ours)),
    Engine("PyTorch eager", "eager", files.write_nothing),
    Engine("torch.compile", "compile", files.write_nothing),
    Engine("plain export, ONNX Runtime", "ort", files.write_plain),
    Engine("plain export, OpenVINO f32", "openvino-f32", files.write_plain),
    Engine("plain export, OpenVINO bf16", "openvino-bf16", files.write_plain),
    Engine("ours, ONNX Runtime", "ort", files.write_ours),
    Engine("ours without Winograd, ONNX Runtime", "ort", files.write_ours_direct),
    Engine("ours --fused, ONNX Runtime", "ort-fused", files.write_fused),
    Engine("ours, OpenVINO f32", "openvino-f32", files.write_ours_for_openvino),
    Engine("ours, OpenVINO bf16", "openvino-bf16", files.write_ours_for_openvino),
    Engine("ours, TorchScript", "torchscript", files.write_torchscript(torch.float32)),
    Engine("ours bf16, TorchScript", "torchscript", files.write_torchscript(torch.bfloat16)),
    Engine("ours, AOTInductor", "aot", files.write_aot(torch.float32)),
    Engine("ours bf16, AOTInductor", "aot", files.write_aot(torch.bfloat16)),
)


class Worker:
    """An engine in a process of its own.

    Args:
        engine: The engine.
        path: The file that it runs.
        threads: CPU threads of one call.
    """

    def __init__(self, engine: Engine, path: Path, threads: int):
        self._process = AskedProcess(WORKER, [engine.kind, str(path), str(threads), str(library_path())], threads)
        self.close = self._process.close

    def run(self, batch: int) -> dict[str, Any]:
        """Run one batch.

        Returns:
            {"ms": milliseconds, "peak_mb": memory}, or {"error": message} where the engine cannot run the batch or its
            process has ended.
        """
        return self._process.ask(str(batch))


def measure(workers: dict[str, Worker], batch: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Time the engines in turn, one batch each.

    Args:
        workers: The engines' processes, by name.
        batch: The batch size.
        repeats: How many turns count. Two turns before them do not.

    Returns:
        The best and the median time and the peak memory by engine, and the ratios to the reference. {"error": message}
        for an engine that failed.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    figures: dict[str, dict[str, Any]] = {}
    for turn in range(2 + repeats):
        for name, worker in workers.items():
            if "error" in figures.get(name, {}):
                continue
            answer = worker.run(batch)
            if "error" in answer:
                figures[name] = answer
            elif turn >= 2:
                times[name].append(answer["ms"])
                figures[name] = {"peak_mb": round(answer["peak_mb"])}
            time.sleep(PAUSE_S)
    for name, values in times.items():
        if "error" not in figures[name]:
            best, median = min(values), statistics.median(values)
            figures[name] |= {"best_ms": round(best, 3), "median_ms": round(median, 3)}
    reference = figures.get(REFERENCE, {})
    for row in figures.values():
        if "best_ms" in row and "best_ms" in reference:
            row["ratio_of_best"] = round(row["best_ms"] / reference["best_ms"], 3)
            row["ratio_of_medians"] = round(row["median_ms"] / reference["median_ms"], 3)
    return figures


def table(
    architecture: str, batch: int, figures: dict[str, dict[str, Any]], floors: dict[str, dict[str, float]]
) -> str:
    """Return the figures of one architecture and batch size as a Markdown table with a line above it."""
    rows = []
    for name, row in figures.items():
        if "error" in row:
            rows.append([name, f"not measured: {row['error']}", "", "", ""])
        else:
            times = (f"{row[key]:.2f}" for key in ("best_ms", "median_ms"))
            rows.append([name, *times, str(row.get("ratio_of_best", "")), str(row["peak_mb"])])
    rows += [[name, f"{row['ms']:.2f}", "", str(row.get("ratio_of_best", "")), ""] for name, row in floors.items()]
    header = ("engine", "best, ms", "median, ms", "ratio", "peak, MB")
    return f"\n{architecture}, batch {batch}\n{markdown.table(header, rows, 'lrrrr')}"


def ratio_table(architectures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ratios of best times to the reference as a Markdown table.

    Args:
        architectures: The figures by architecture, as in the result. Each batch size gets a column.
    """
    columns = [(name, batch) for name, measured in architectures.items() for batch in measured["batches"]]
    rows = []
    names: dict[str, None] = {}
    for name, batch in columns:
        names |= dict.fromkeys((*architectures[name]["batches"][batch], *architectures[name]["floor"][batch]))
    for row in names:
        cells = []
        for name, batch in columns:
            figures = architectures[name]["batches"][batch] | architectures[name]["floor"][batch]
            ratio = figures.get(row, {}).get("ratio_of_best")
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        rows.append([row, *cells])
    header = ["engine", *(f"{name}, {batch}" for name, batch in columns)]
    return markdown.table(header, rows, "l" + "r" * len(columns))


def write_file(index: int, checkpoint: Path, path: Path) -> None:
    """Write the file of an engine. It is called in another process, whose memory does not count for the engines."""
    ENGINES[index].write(checkpoint, path)


def start_workers(
    engines: Sequence[Engine], checkpoint: Path, threads: int
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """Write the engines' files and start their processes.

    Returns:
        The processes by the engines' names, and {"error": message} for each engine whose file cannot be written.
    """
    workers: dict[str, Worker] = {}
    refused: dict[str, dict[str, Any]] = {}
    paths: dict[str, Path] = {}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as writer:
        for engine in engines:
            index = ENGINES.index(engine)
            path = checkpoint.with_name(f"{checkpoint.stem}-{index}{SUFFIXES.get(engine.kind, '.graph')}")
            say(f"writing {checkpoint.stem}: {engine.name}")
            try:
                writer.submit(write_file, index, checkpoint, path).result()
                paths[engine.name] = path
            except Exception as error:  # any engine may fail; the benchmark goes on without it
                refused[engine.name] = {"error": first_line(error)}
    for engine in engines:
        if engine.name in paths:
            workers[engine.name] = Worker(engine, paths[engine.name], threads)
    return workers, refused


def run_architecture(
    checkpoint: Path,
    engines: Sequence[Engine],
    arguments: argparse.Namespace,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measure an architecture at every batch size.

    Args:
        checkpoint: The network's checkpoint.
        engines: The engines to time.
        arguments: The command line's.
        keep: Saves the architecture's figures. It is called after each batch size, so that an interruption costs one.
    """
    result: dict[str, Any] = {"gflop_per_picture": arithmetic(checkpoint), "batches": {}}
    workers, refused = start_workers(engines, checkpoint, arguments.threads)
    try:
        for batch in arguments.batches:
            figures = measure(workers, batch, arguments.repeats) | refused
            result["batches"][str(batch)] = {engine.name: figures[engine.name] for engine in engines}
            keep(result)
            print(table(checkpoint.stem, batch, result["batches"][str(batch)], result["floor"][str(batch)]), flush=True)
    finally:
        for worker in workers.values():
            worker.close()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, by default the process's."""
    parser = command_parser("benchmarks.engines", __doc__)
    parser.add_argument(
        "--architectures", nargs="+", default=["wrn-16-2", "wrn-28-10"], metavar="ARCH", help="backbones"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=15, help="turns of every engine at every batch size")
    parser.add_argument("--threads", type=thread_count, default=os.cpu_count(), help="CPU threads of one call")
    parser.add_argument(
        "--engines", metavar="TEXT", help="time only the rows whose name contains this, and the reference"
    )
    parser.add_argument(
        "--floor", action="store_true", help="measure only matrix products anew, for the floor in --out"
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="measure only self_gradient=auto of the bundled network on pictures under this folder: the entry auto "
        "of --out",
    )
    parser.add_argument("--pictures", type=int, default=Task.count, help="how many of them")
    parser.add_argument("--attacked", type=int, default=Task.attacked, help="how many of those are attacked too")
    add_out(parser, RESULT)
    return parser.parse_args(arguments)


def main_auto(options: argparse.Namespace, command: str) -> int:
    """Measure self_gradient=auto, add it to the result, and return the exit status.

    Args:
        options: The parsed command line.
        command: The command line as it was given.
    """
    task = Task(options.data_root, count=options.pictures, attacked=options.attacked)
    try:
        measured = measure_auto(task, options.batches, options.repeats, options.threads)
    except (BenchmarkError, PicturesError) as error:
        say(f"error: {error}")
        return 2
    result = json.loads(options.out.read_text()) if options.out.is_file() else {}
    result["auto"] = {
        "command": command.replace(str(options.data_root), "..."),
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": versions(PACKAGES),
        "processor": processor(),
        "git_commit": commit(),
        **measured,
    }
    write_result(options.out, result)
    print(auto_table(result["auto"]))
    return 0


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m benchmarks.engines", *given])
    if options.data_root is not None:
        return main_auto(options, command)
    peaks = matrix_products.peaks(options.threads)
    if options.floor:
        result = json.loads(options.out.read_text())
        result["floor"] = {"git_commit": commit(), "matrix_product_gflop_per_s": peaks}
        for measured in result["architectures"].values():
            add_floor(measured, peaks, REFERENCE)
        write_result(options.out, result)
        print(ratio_table(result["architectures"]))
        return 0
    engines = [
        engine
        for engine in ENGINES
        if options.engines is None or options.engines in engine.name or engine.name == REFERENCE
    ]
    result = {
        "command": command,
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": versions(PACKAGES),
        "processor": processor(),
        "git_commit": commit(),
        "floor": {"git_commit": commit(), "matrix_product_gflop_per_s": peaks},
        "reference": REFERENCE,
        "architectures": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for architecture in options.architectures:

            def keep(measured: dict[str, Any], architecture: str = architecture) -> None:
                add_floor(measured, peaks, REFERENCE)
                result["architectures"][architecture] = measured
                write_result(options.out, result)

            checkpoint = Path(folder) / f"{architecture}.safetensors"
            files.write_checkpoint(architecture, checkpoint)
            run_architecture(checkpoint, engines, options, keep)
    print(f"\nratios of best times\n{ratio_table(result['architectures'])}")
    return 0
