"""Measure how long a command takes to answer --help, or to refuse a mistake that needs no PyTorch.

    python -m benchmarks.start_up

Writes results/start_up.json: the least of several times of each, from the start of the process to its end.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.errors import BenchmarkError
from benchmarks.provenance import commit, processor, versions
from sgn.command import COMMANDS
from sgn_serve.common.markdown import table

RESULT = ROOT / "results" / "start_up.json"
REFUSALS = (
    ("train", "--data", "photos", "--epochs", "1.5"),
    ("judge", "--ckpt", "no-such.safetensors", "--data", "photos"),
    ("export", "--ckpt", "no-such.safetensors", "--onnx"),
)
"""Command lines with a mistake, one of each kind: a wrong value, and two files that are not there."""


def command_lines() -> list[tuple[tuple[str, ...], int]]:
    """Return the arguments of `sgn` that are measured, each with the exit status that is expected."""
    helps = [("--help",), *((name, "--help") for name in COMMANDS)]
    return [*((arguments, 0) for arguments in helps), *((arguments, 2) for arguments in REFUSALS)]


def seconds_of(arguments: Sequence[str], status: int) -> float:
    """Return how long `sgn` runs with these arguments.

    Raises:
        BenchmarkError: It ends with another status.
    """
    command = [sys.executable, "-m", "sgn", *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != status:
        raise BenchmarkError(f"sgn {' '.join(arguments)}: ended with {done.returncode}, not {status}: {done.stderr}")
    return seconds


def measure(rounds: int) -> dict[str, float]:
    """Return the least time of each command line in seconds; the commands take turns.

    Raises:
        BenchmarkError: A command does not end as it should.
    """
    best: dict[str, float] = {}
    for _ in range(rounds):
        for arguments, status in command_lines():
            name = f"sgn {' '.join(arguments)}"
            best[name] = min(best.get(name, float("inf")), seconds_of(arguments, status))
    return {name: round(seconds, 3) for name, seconds in best.items()}


def start_up_table(result: dict[str, Any]) -> str:
    """Return the times as Markdown."""
    return table(
        ["command", "seconds"], [[f"`{name}`", f"{value:.2f}"] for name, value in result["seconds"].items()], "lr"
    )


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.start_up", __doc__)
    parser.add_argument("--rounds", type=int, default=10, help="times of each command; the least one counts")
    add_out(parser, RESULT)
    arguments = parser.parse_args(command_line)
    seconds = measure(arguments.rounds)
    result = {
        "command": "python -m benchmarks.start_up",
        "versions": versions(("bentoml",)),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "git_commit": commit(),
        "rounds": arguments.rounds,
        "seconds": seconds,
    }
    write_result(arguments.out, result)
    print(start_up_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
