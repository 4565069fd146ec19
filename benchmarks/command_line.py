"""Share between the commands of benchmarks/ and release/ the parser, the result's file, and how an error is told."""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from benchmarks.errors import BenchmarkError
from sgn_serve.common.command_parser import CommandParser, file_to_write, positive_number
from sgn_serve.common.error_text import say
from sgn_serve.process.cores import crowded
from training.common.errors import TrainingError
from training.common.files import WriteError, write_atomically

ROOT = Path(__file__).parents[1]
"""The repository."""

_Arguments = ParamSpec("_Arguments")


def command_parser(module: str, documentation: str | None) -> CommandParser:
    """Return the parser of a program.

    Args:
        module: Name of the module, as behind `python -m`.
        documentation: The docstring of the program's module. Its first line, a sentence, describes the program.
    """
    return CommandParser(f"python -m {module}", description=(documentation or "").partition("\n")[0])


def add_out(parser: argparse.ArgumentParser, result: Path, about: str = "JSON file") -> None:
    """Add the option --out for the file of the result.

    Args:
        parser: The program's.
        result: The file where the option is left out, in the repository.
        about: The kind of file, in words, for --help.
    """
    shown = result.relative_to(ROOT).as_posix()
    parser.add_argument("--out", type=file_to_write, default=result, help=f"{about} (default: {shown})")


def thread_count(text: str) -> int:
    """Return a number of CPU threads, as argparse's type of an option.

    Raises:
        argparse.ArgumentTypeError: It is none, or more than this process's cores can use.
    """
    count = positive_number(text, " of threads")
    if why := crowded(count):
        raise argparse.ArgumentTypeError(f"{count} are too many: {why}")
    return count


def write_result(path: Path, result: Any, indent: int = 1) -> None:
    """Write a result as JSON, as a whole or not at all, with the folders that it needs.

    Raises:
        WriteError: The system refuses it. Where a file was there, it is still there.
    """
    content = (json.dumps(result, indent=indent) + "\n").encode()
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout, which must not be replaced
            path.write_bytes(content)
            return
    except OSError as error:
        raise WriteError.of(path, error) from None
    write_atomically(path, content)


def errors_told(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """Make a program tell the errors that its user can put right on one line, and end with their exit status."""

    @functools.wraps(main)
    def program(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except (BenchmarkError, TrainingError) as error:
            say(f"error: {error}")
            return error.exit_status

    return program
