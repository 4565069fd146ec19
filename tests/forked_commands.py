"""Run command lines in forks of a process that has imported no more than what parses them.

Each command is still a process of its own. A new interpreter for each takes ten times the processor time.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARSERS = (
    *("training.command", "training.evaluate.command", "training.convert.command", "training.reproduce.command"),
    *("export.command", "sgn_serve.command", "sgn_serve.classify.command", "sgn_serve.classify.report.command"),
    "sgn.command",
)
"""Modules that are imported before the first command. Those that they import count as imported by every command."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        status: Its exit status.
        printed: Its standard output.
        errors: The lines of its standard error.
        imported: Names of the packages and modules at the top that it imported.
    """

    status: int
    printed: str
    errors: list[str]
    imported: set[str]


def run_all(commands: Sequence[Sequence[str]], folder: Path = ROOT) -> list[Ended]:
    """Run `python -m` with each of these arguments in a folder, and return how each ended."""
    program, given = [sys.executable, __file__], json.dumps(commands)
    done = subprocess.run(program, input=given, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return [Ended(status, out, err.splitlines(), set(names)) for status, out, err, names in json.loads(done.stdout)]


def _run(command: list[str]) -> tuple[int, str, str, list[str]]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as names:
        status = _forked(command, out.fileno(), err.fileno(), names.fileno())
        texts = []
        for file in (out, err, names):
            file.seek(0)
            texts.append(file.read().decode())
    return status, texts[0], texts[1], json.loads(texts[2] or "[]")


def _forked(command: list[str], out: int, err: int, names: int) -> int:
    """Run a command in a fork, and return its exit status.

    Args:
        command: The module and its arguments.
        out: File for its standard output.
        err: File for its standard error.
        names: File for the names of what it imported, as JSON.
    """
    child = os.fork()
    if child == 0:
        os.dup2(out, 1)
        os.dup2(err, 2)
        status = 1
        try:
            sys.argv = command
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(names, json.dumps(sorted({name.partition(".")[0] for name in sys.modules})).encode())
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for module in PARSERS:
        importlib.import_module(module)
    print(json.dumps([_run(command) for command in json.load(sys.stdin)]))
