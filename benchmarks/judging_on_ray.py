"""Measure what judging on Ray costs and gains on this machine, against plain processes.

    python -m benchmarks.judging_on_ray --data-root DIR

DIR holds test/<class>/. The bundled network's backbone, as a plain network, is judged in four ways, one thread each:

- by one process,
- by one worker of Ray,
- by two workers of Ray,
- by two processes at once, each on half as many other pictures, drawn with a seed of its own.

The ways take turns. A time is that of the whole command, imports and the workers' start included; the cluster runs
already. One process and Ray must give each picture the same answer.

It writes results/judging_on_ray.json after each command, and goes on with the rounds that are missing there.
"""

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.local_ray import local_cluster
from benchmarks.provenance import commit, processor, versions
from sgn_serve.common.error_text import system_errors_as
from sgn_serve.common.markdown import table
from training.common import run_files

RESULT = ROOT / "results" / "judging_on_ray.json"
ONE_PROCESS, ONE_WORKER, TWO_WORKERS, TWO_PROCESSES = "one process", "one worker", "two workers", "two processes"
WAYS = {
    ONE_PROCESS: "one process",
    ONE_WORKER: "Ray, one worker",
    TWO_WORKERS: "Ray, two workers",
    TWO_PROCESSES: "two processes, half as many pictures each",
}
"""The ways by name, with their words for the table."""
ATTACKS = ("quick", "apgd-ce", "apgd-t")
AIM, MOST_OVERHEAD = 1.8, 0.05
"""Wanted speed-up of two workers, and share of time that one worker may take more than one process."""
SAME = ("versions", "processor", "cores", "git_commit", "setting")
"""Fields that must not change between the rounds of a result."""


def plain_network(folder: Path) -> Path:
    """Write the bundled network without its block as a checkpoint, and return its path."""
    # Imported here, because --help needs no PyTorch.
    from sgn_serve.settings import BUNDLED_MODEL
    from training.checkpoint import load_checkpoint, save_checkpoint

    network, info = load_checkpoint(BUNDLED_MODEL.with_suffix(".safetensors"))
    path = folder / run_files.CHECKPOINT
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("block.")}
    save_checkpoint(path, state, replace(info, block=None, auto_margin=None, history={}, method="pgd"))
    return path


def command_of(options: argparse.Namespace, checkpoint: Path, report: Path, *more: str) -> list[str]:
    """Return the command line of one judgement, of all pictures unless `more` says otherwise."""
    line = [sys.executable, "-m", "training.evaluate", "--ckpt", str(checkpoint), "--data-root", str(options.data_root)]
    line += ["--dataset", "image-folder", "--batch-size", str(options.batch), "--threads", "1"]
    line += ["--pictures", str(options.pictures), "--report", str(report), "--attacks", *options.attacks]
    return [*line, *more]


def seconds_of(commands: Sequence[Sequence[str]]) -> float:
    """Run commands side by side, and return the seconds until the last of them ends.

    Raises:
        BenchmarkError: One failed; the message holds what it printed.
    """
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for command in commands]
    said = [process.communicate()[0] for process in running]
    seconds = time.perf_counter() - began
    for process, words in zip(running, said, strict=True):
        if process.returncode:
            raise BenchmarkError(f"the evaluation failed with {process.returncode}: {words}")
    return seconds


def judged(options: argparse.Namespace, way: str, checkpoint: Path, folder: Path) -> float:
    """Judge in one of WAYS, and return the seconds. The report of all pictures is WAY.json in the folder.

    Raises:
        BenchmarkError: A command failed, or Ray does not start.
    """
    report = folder / f"{way}.json"
    report.unlink(missing_ok=True)
    if way == ONE_PROCESS:
        return seconds_of([command_of(options, checkpoint, report)])
    if way == TWO_PROCESSES:
        halves = [(str((options.pictures + part) // 2), str(part)) for part in (0, 1)]
        parts = [folder / f"half-{seed}.json" for _, seed in halves]
        for part in parts:
            part.unlink(missing_ok=True)
        given = [("--pictures", count, "--seed", seed) for count, seed in halves]
        lines = [command_of(options, checkpoint, part, *more) for part, more in zip(parts, given, strict=True)]
        return seconds_of(lines)
    with local_cluster({"OMP_NUM_THREADS": "1"}, cores=1 if way == ONE_WORKER else 2) as address:
        return seconds_of([command_of(options, checkpoint, report, "--ray", address)])


def digest_of(report: Path) -> str:
    """Return a digest of what a report says of each picture under each attack."""
    answers = [(row["id"], row["withstood"]) for row in json.loads(report.read_text())["rows"]]
    return hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()


def summary(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the ratios of the ways over the rounds that all of them have done, as medians.

    Returns:
        speed-up: Seconds of one process over those of two workers.
        speed-up over one worker: Seconds of one worker over those of two.
        speed-up of plain processes: The same over those of two processes, each on half as many pictures.
        overhead of one worker: Its seconds over those of one process, less 1.
    """
    rounds = list(zip(*(seconds[way] for way in WAYS), strict=False))
    if not rounds:
        return {}

    def median(numerator: str, denominator: str) -> float:
        order = list(WAYS)
        return statistics.median(one[order.index(numerator)] / one[order.index(denominator)] for one in rounds)

    return {
        "speed-up": round(median(ONE_PROCESS, TWO_WORKERS), 3),
        "speed-up over one worker": round(median(ONE_WORKER, TWO_WORKERS), 3),
        "speed-up of plain processes": round(median(ONE_PROCESS, TWO_PROCESSES), 3),
        "overhead of one worker": round(median(ONE_WORKER, ONE_PROCESS) - 1, 4),
    }


def seconds_table(result: dict[str, Any]) -> str:
    """Return the seconds of each round as Markdown, with the median of their ratio to one process."""
    seconds = result["seconds"]
    rounds = min(len(times) for times in seconds.values())
    lines = []
    for way, words in WAYS.items():
        ratios = [one / full for one, full in zip(seconds[way], seconds[ONE_PROCESS], strict=False)]
        lines.append([words, *(f"{one:.0f}" for one in seconds[way][:rounds]), f"{statistics.median(ratios):.2f}"])
    return table(
        ["way", *(f"round {number + 1}, s" for number in range(rounds)), "of one process"], lines, "lr" + "r" * rounds
    )


def shown(result: dict[str, Any]) -> str:
    """Return the setting, the seconds and what follows from them as Markdown."""
    ratios, setting = result.get("ratios"), result["setting"]
    if not ratios:
        return "Not measured yet."
    overhead = 100 * ratios["overhead of one worker"]
    attacks = ", ".join(f"`{name}`" for name in setting["attacks"])
    same = "gave" if result["same_answers"] else "did not give"
    return (
        f"On {setting['pictures']} pictures in batches of {setting['batch']}, by {attacks}:\n\n"
        f"{seconds_table(result)}\n\n"
        f"- Two workers were {ratios['speed-up']:.2f} times as fast as one process, and "
        f"{ratios['speed-up over one worker']:.2f} times as fast as one worker. "
        f"The aim of {AIM} is {'reached' if ratios['speed-up'] >= AIM else 'missed'}.\n"
        f"- Two plain processes were {ratios['speed-up of plain processes']:.2f} times as fast.\n"
        f"- One worker took {abs(overhead):.1f} % {'more' if overhead >= 0 else 'less'} time than one process. "
        f"The aim was less than {100 * MOST_OVERHEAD:.0f} % more.\n"
        f"- One process and Ray {same} each picture the same answer."
    )


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = command_parser("benchmarks.judging_on_ray", __doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="image folder with test/<class>/")
    parser.add_argument("--pictures", type=int, default=200, help="test pictures (default: %(default)s)")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), help="default: quick apgd-ce apgd-t")
    parser.add_argument("--batch", type=int, default=10, help="pictures of a task (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over the four ways (default: %(default)s)")
    add_out(parser, RESULT)
    options = parser.parse_args(command_line)
    given = sys.argv[1:] if command_line is None else command_line
    options.command = shlex.join(["python", "-m", "benchmarks.judging_on_ray", *given])
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


@system_errors_as(BenchmarkError, "mend that; the same command goes on")
def measure(options: argparse.Namespace, new: dict[str, Any]) -> dict[str, Any]:
    """Judge in each way as often as asked for, write the result after each time, and return it.

    Args:
        options: The command's.
        new: The result of a run that has not begun. An unfinished one of the same setting goes on instead.

    Raises:
        BenchmarkError: The unfinished run has another setting, a command failed, or a file cannot be read or written.
    """
    result = new
    if options.out.is_file():
        result = json.loads(options.out.read_text())
        others = [name for name in SAME if result.get(name) != new[name]]
        if others:
            raise BenchmarkError(f"{options.out} differs in {', '.join(others)}; pass another --out, or remove it")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = plain_network(Path(folder))
        for number in range(options.rounds):
            for way in WAYS:
                if len(result["seconds"][way]) > number:
                    continue
                seconds = judged(options, way, checkpoint, Path(folder))
                result["seconds"][way].append(round(seconds, 1))
                result["load_average"] = round(os.getloadavg()[2], 1)
                if way != TWO_PROCESSES:
                    digests = result["answers"].setdefault(way, [])
                    digests.append(digest_of(Path(folder) / f"{way}.json"))
                    result["same_answers"] = len({one for each in result["answers"].values() for one in each}) == 1
                result["ratios"] = summary(result["seconds"])
                write_result(options.out, result)
                print(f"round {number + 1}, {WAYS[way]}: {seconds:.0f} s", flush=True)
    return result


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse(command_line)
    options.data_root = options.data_root.resolve()
    result: dict[str, Any] = {
        "command": options.command,
        "versions": versions(("torch", "ray")),
        "processor": processor(),
        "cores": os.cpu_count(),
        "git_commit": commit(),
        "setting": {"pictures": options.pictures, "attacks": options.attacks, "batch": options.batch},
        "seconds": {way: [] for way in WAYS},
        "answers": {},
        "same_answers": True,
    }
    result = measure(options, result)
    print(seconds_table(result))
    print(json.dumps(result["ratios"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
