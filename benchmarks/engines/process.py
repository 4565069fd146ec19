"""Run an engine in a process of its own, and ask it line by line.

A process keeps the memory and the threads of one engine away from those of the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT
from sgn_serve.common.error_text import first_line


class AskedProcess:
    """A Python module that runs as a process and answers each line of its standard input by one line of JSON.

    Args:
        module: The module's name. Its main calls answer_lines.
        arguments: Its command line.
        threads: CPU threads of one call.
    """

    def __init__(self, module: str, arguments: Sequence[str], threads: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            cwd=ROOT,
        )

    def ask(self, question: str) -> dict[str, Any]:
        """Return the answer to a line, or {"error": message} where the process cannot give one or has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(question, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"its process ended with {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the process's standard input, which ends it, and wait for it."""
        self._process.communicate()


def answer_lines(answer: Callable[[str], dict[str, Any]]) -> int:
    """Answer standard input line by line, and return the exit status.

    Args:
        answer: Returns what JSON can carry. An exception of it is answered as {"error": its first line}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of engines must not stand among the answers
    for line in sys.stdin:
        try:
            answered = answer(line)
        except Exception as error:  # any engine may fail; the benchmark goes on without it
            answered = {"error": first_line(error)}
        print(json.dumps(answered), file=answers, flush=True)
    return 0


def peak_mb() -> float:
    """Return the peak memory of this process, the engine's libraries included, in MiB.

    It is not that of getrusage, which counts what the process was before it became this program.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
