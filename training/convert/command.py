"""The program `python -m training.convert`: from weights of another program to a model.safetensors.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sgn_serve.command_parser import CommandParser, file_to_write
from sgn_serve.interrupts import importing
from training.common.command_line import number
from training.common.errors import TrainingError
from training.convert.options import Options
from training.data.class_names import HELP as CLASSES_HELP
from training.networks.names import ACTIVATIONS, KNOWN, check_spelling

PROGRAM = "python -m training.convert"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        program,
        description="Writes weights of another program as a checkpoint that can be judged, exported and served. Every "
        "tensor must fit; otherwise each that does not is listed, and nothing is written.",
    )
    parser.add_argument("--weights", type=Path, required=True, help="state dict: .pt, .pth or .safetensors")
    parser.add_argument("--classes", required=True, help=CLASSES_HELP)
    parser.add_argument(
        "--out", type=file_to_write, required=True, help="checkpoint to write, such as runs/x/model.safetensors"
    )
    parser.add_argument("--arch", help=f"backbone (default: guessed from the tensors): {KNOWN}")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{name}",
            type=_three,
            metavar="R,G,B",
            help=f"per-channel {what} that its program normalises with (default: the file's own, or timm's, or none)",
        )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="height and width (default: 32, or what the timm network is made for)",
    )
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="relu", help="activation (default: relu)")
    parser.add_argument(
        "--epsilon",
        "--eps",
        type=number,
        default=0.0,
        help="L-inf budget it was trained for, such as 8/255 (default: 0, none)",
    )
    parser.add_argument("--dataset-name", default="", help="what reports call the data that it was trained on")
    parser.add_argument(
        "--add-block",
        action="store_true",
        help="wrap it in a self-gradient block of random weights, to be trained with --init-from; else it stays "
        "a plain network",
    )
    return parser


def _three(text: str) -> tuple[float, ...]:
    values = tuple(number(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers; write them like 0.49,0.48,0.45")
    if max(values) > 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is for pixels from 0 to 255, and they are from 0 to 1; divide by 255"
        )
    return values


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: What --help and errors call the program.
    """
    options = Options(**vars(build_parser(program).parse_args(argv)))
    try:
        if options.arch is not None:
            check_spelling(options.arch)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    with importing():
        from training.convert.convert import run
    return run(options)
