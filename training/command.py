"""The program `python -m training`: train a network to runs/<name>/model.safetensors.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import os
import sys

from sgn_serve.interrupts import importing
from training.common.errors import TrainingError
from training.options import PROGRAM, build_parser, checked


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: What --help and errors call the program.
    """
    arguments = build_parser(program).parse_args(argv)
    try:
        checked(arguments)
    except TrainingError as error:
        # Every process that torchrun started gets the same error, so the first one of each machine prints it.
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    with importing():
        from training.train import run
    return run(arguments)
