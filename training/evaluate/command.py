"""Command line `python -m training.evaluate`: attack a checkpoint or a module and report what it withstands.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import argparse
import shlex
import sys

from sgn_serve.common.command_parser import CommandParser
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import importing
from training.attacks.names import ATTACKS, PRESET_CALLS, PRESET_MEANING, PRESETS
from training.common.described_options import add_options, given_options
from training.common.errors import TrainingError
from training.evaluate.options import Options

PROGRAM = "python -m training.evaluate"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser, whose --help lists the presets and the attacks."""
    width = max(map(len, ATTACKS))
    epilog = [
        "presets of --attacks, and how often they call the network on a picture that withstands everything (10",
        "classes, a network with a block; pictures that fall cost much less):",
        *(f"  {name:<{width}}  {PRESET_CALLS[name]:>6,}  {PRESET_MEANING[name]}" for name in PRESETS),
        "attacks by name:",
        f"  {'pgd-K, cw-K':<{width}}  K steps on cross-entropy or on the margin, for any K",
        *(f"  {name:<{width}}  {about.text}" for name, about in ATTACKS.items()),
    ]
    parser = CommandParser(
        program,
        description="Clean and attacked accuracy of a checkpoint, block on and off, or of any module; the headline is "
        "the lowest accuracy per picture, and a checklist says whether it is likely too high.",
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, Options)
    return parser


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    arguments = build_parser(program).parse_args(argv)
    command = shlex.join([*PROGRAM.split(), *(sys.argv[1:] if argv is None else argv)])
    try:
        options = Options(**{"ckpt": None, **given_options(Options, arguments)})
        options.check_files()
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    with importing():
        from training.evaluate.evaluate import run
    return run(options, command)
