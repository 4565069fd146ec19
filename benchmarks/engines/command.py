"""How long both passes take in every engine, as ratios to ONNX Runtime's single pass, taken in one run.

    python -m benchmarks.engines

Writes results/engines.json. Every engine has a process of its own and they take turns, so that all meet the same
disturbances; beside the times stand counted arithmetic and what this machine's matrix products reach, which together
give the floor, and each process's peak memory.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import files, matrix_products
from benchmarks.engines.arithmetic_floor import add_floor, arithmetic
from benchmarks.provenance import commit, processor, versions

RESULT = Path(__file__).parents[2] / "results" / "engines.json"
WORKER = Path(__file__).with_name("worker.py")
REFERENCE = "block off: plain export, ONNX Runtime"
PACKAGES = ("torch", "onnxruntime", "openvino")
PAUSE_S = 0.05
"""Between two engines' turns: threads of the one before stop spinning."""
SUFFIXES = {
    "aot": ".pt2",
    **dict.fromkeys(("openvino-f32", "openvino-bf16", "ort-openvino-f32", "ort-openvino-bf16"), ".onnx"),
}
"""Of files that engines recognise by their names."""


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    kind:  of engine_worker
    write: makes the file that it runs from a checkpoint
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


OPENVINO_BUILD = (
    Engine("ours, ONNX Runtime's OpenVINO build f32", "ort-openvino-f32", files.write_ours_for_openvino),
    Engine("ours, ONNX Runtime's OpenVINO build bf16", "ort-openvino-bf16", files.write_ours_for_openvino),
)
"""Run by another Python."""


class Worker:
    """An engine's process.

    python: the interpreter that it runs in
    """

    def __init__(self, engine: Engine, path: Path, threads: int, python: str = sys.executable):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [python, str(WORKER), engine.kind, str(path), str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=WORKER.parents[2],
        )

    def run(self, batch: int) -> dict[str, Any]:
        """One batch: {"ms", "peak_mb"}, or {"error"} where the engine cannot or its process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(batch, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"its process ended with {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate()


def measure(workers: dict[str, Worker], batch: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Best and median of `repeats` turns by engine, after two that are not counted; an error where there is one."""
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
    head = "| | best, ms | median, ms | ratio | peak, MB |\n| --- | ---: | ---: | ---: | ---: |"
    lines = [f"\n{architecture}, batch {batch}", head]
    for name, row in figures.items():
        if "error" in row:
            lines.append(f"| {name} | not measured: {row['error']} | | | |")
        else:
            ratio = row.get("ratio_of_best", "")
            lines.append(f"| {name} | {row['best_ms']:.2f} | {row['median_ms']:.2f} | {ratio} | {row['peak_mb']} |")
    lines += [f"| {name} | {row['ms']:.2f} | | {row.get('ratio_of_best', '')} | |" for name, row in floors.items()]
    return "\n".join(lines)


def ratio_table(architectures: Mapping[str, Mapping[str, Any]]) -> str:
    """Every row's ratio of best times to the reference, a column for each architecture and batch size, in Markdown.

    architectures: of the result
    """
    columns = [(name, batch) for name, measured in architectures.items() for batch in measured["batches"]]
    lines = [
        "| | " + " | ".join(f"{name}, {batch}" for name, batch in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    names: dict[str, None] = {}
    for name, batch in columns:
        names |= dict.fromkeys((*architectures[name]["batches"][batch], *architectures[name]["floor"][batch]))
    for row in names:
        cells = []
        for name, batch in columns:
            figures = architectures[name]["batches"][batch] | architectures[name]["floor"][batch]
            ratio = figures.get(row, {}).get("ratio_of_best")
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_file(index: int, checkpoint: Path, path: Path) -> None:
    """Called in a process of its own: what writing takes is not taken from the engines' memory."""
    (*ENGINES, *OPENVINO_BUILD)[index].write(checkpoint, path)


def start_workers(
    engines: Sequence[Engine], checkpoint: Path, threads: int, other_python: str | None
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """The engines' processes by name, and why there is none for the others."""
    workers: dict[str, Worker] = {}
    refused: dict[str, dict[str, Any]] = {}
    paths: dict[str, Path] = {}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as writer:
        for engine in engines:
            index = (*ENGINES, *OPENVINO_BUILD).index(engine)
            path = checkpoint.with_name(f"{checkpoint.stem}-{index}{SUFFIXES.get(engine.kind, '.graph')}")
            print(f"writing {checkpoint.stem}: {engine.name}", file=sys.stderr, flush=True)
            try:
                writer.submit(write_file, index, checkpoint, path).result()
                paths[engine.name] = path
            except Exception as error:  # one engine less
                refused[engine.name] = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    for engine in engines:
        if engine.name in paths:
            python = other_python if engine in OPENVINO_BUILD else None
            workers[engine.name] = Worker(engine, paths[engine.name], threads, python or sys.executable)
    return workers, refused


def run_architecture(
    checkpoint: Path,
    engines: Sequence[Engine],
    arguments: argparse.Namespace,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measures at every batch size; what is there is kept after each, so that the next one cannot cost it."""
    result: dict[str, Any] = {"gflop_per_picture": arithmetic(checkpoint), "batches": {}}
    workers, refused = start_workers(engines, checkpoint, arguments.threads, arguments.openvino_build)
    try:
        for batch in arguments.batches:
            figures = measure(workers, batch, arguments.repeats) | refused
            result["batches"][str(batch)] = {engine.name: figures[engine.name] for engine in engines}
            keep(result)
            print(table(checkpoint.stem, batch, result["batches"][str(batch)], result["floor"][str(batch)]), flush=True)
    finally:
        for worker in workers.values():
            worker.close()


def save(result: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.engines", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=["wrn-16-2", "wrn-28-10"], metavar="ARCH")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=15, help="turns of every engine at every batch size")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of one call")
    parser.add_argument("--engines", metavar="TEXT", help="only the rows whose name holds this, and the reference")
    parser.add_argument(
        "--openvino-build",
        metavar="PYTHON",
        help="also ONNX Runtime's OpenVINO build, which cannot stand beside the usual one: the interpreter of an "
        "environment with onnxruntime-openvino and numpy",
    )
    parser.add_argument("--floor", action="store_true", help="measure only matrix products, for --output's floor rows")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file (default: results/engines.json)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    peaks = matrix_products.peaks(options.threads)
    if options.floor:
        result = json.loads(options.output.read_text())
        result["floor"] = {"git_commit": commit(), "matrix_product_gflop_per_s": peaks}
        for measured in result["architectures"].values():
            add_floor(measured, peaks, REFERENCE)
        save(result, options.output)
        print(ratio_table(result["architectures"]))
        return 0
    engines = [
        engine
        for engine in (*ENGINES, *(OPENVINO_BUILD if options.openvino_build else ()))
        if options.engines is None or options.engines in engine.name or engine.name == REFERENCE
    ]
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m benchmarks.engines", *given])
    result = {
        "command": command.replace(options.openvino_build, "PYTHON") if options.openvino_build else command,
        "threads": options.threads,
        "repeats": options.repeats,
        "versions": versions(PACKAGES),
        "processor": processor(),
        "git_commit": commit(),
        "floor": {"git_commit": commit(), "matrix_product_gflop_per_s": peaks},
        "reference": REFERENCE,
        "architectures": {},
    }
    if options.openvino_build:
        ask = [options.openvino_build, "-c", "import onnxruntime; print(onnxruntime.__version__)"]
        result["versions"]["onnxruntime-openvino"] = subprocess.run(
            ask, capture_output=True, text=True, check=True
        ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        for architecture in options.architectures:

            def keep(measured: dict[str, Any], architecture: str = architecture) -> None:
                add_floor(measured, peaks, REFERENCE)
                result["architectures"][architecture] = measured
                save(result, options.output)

            checkpoint = Path(folder) / f"{architecture}.safetensors"
            files.write_checkpoint(architecture, checkpoint)
            run_architecture(checkpoint, engines, options, keep)
    print(f"\nratios of best times\n{ratio_table(result['architectures'])}")
    return 0
