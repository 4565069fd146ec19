"""The program `python -m training.convert`: from weights of another program to a model.safetensors.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import argparse
from collections.abc import Sequence

from sgn_serve.common.command_parser import CommandParser
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import importing
from training.common.described_options import add_options, given_options
from training.common.errors import TrainingError
from training.convert.options import Options

PROGRAM = "python -m training.convert"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        program,
        description="Writes weights of another program as a checkpoint that can be judged, exported and served. Every "
        "tensor must fit; otherwise each that does not is listed, and nothing is written.",
    )
    add_options(parser, Options)
    return parser


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    arguments = build_parser(program).parse_args(argv)
    try:
        options = Options(**given_options(Options, arguments))
        options.check_files()
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    with importing():
        from training.convert.convert import run
    return run(options)
