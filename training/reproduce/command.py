"""The program `python -m training.reproduce table2`: make a table or figure of the paper and compare it.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from sgn_serve.common.command_parser import USAGE_ERROR, CommandParser, folder_to_write
from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import importing
from sgn_serve.common.ray_cluster import RayError, add_ray_options, ray_options, require_ray
from training.common.devices import check_threads
from training.common.errors import TrainingError
from training.data.datasets import DATASETS, require_root
from training.reproduce.options import ReproduceOptions
from training.reproduce.paper import FIGURE, TABLES
from training.reproduce.systems import BUDGETS
from training.reproduce.targets import rows_of

PROGRAM = "python -m training.reproduce"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        program,
        description="Trains what a table of the paper needs and is not in runs/reproduce yet, judges it, and prints "
        "the paper's figures beside the measured ones. After an interruption the same command continues.",
        epilog="budgets:\n" + "\n".join(f"  {name:<5}  {budget.purpose}" for name, budget in BUDGETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=(*TABLES, FIGURE), help="what to reproduce")
    parser.add_argument("--budget", choices=BUDGETS, default="paper", help="listed below (default: paper)")
    parser.add_argument(
        "--data-root", "--data", type=Path, default=Path("data"), help="folder of the data sets' archives"
    )
    parser.add_argument(
        "--only",
        choices=sorted({row.dataset for rows in TABLES.values() for row in rows}),
        help="only this data set of a table over several",
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, help="image-folder, where --data-root holds pictures instead of the archive"
    )
    parser.add_argument("--dataset-name", default="", help="what figures call the pictures of an image folder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores; those of a worker with --ray)")
    parser.add_argument(
        "--out", type=folder_to_write, help="folder of the result (default: results/reproduce/<budget>)"
    )
    add_ray_options(parser, "train and judge")
    return parser


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    parser = build_parser(program)
    arguments = parser.parse_args(argv)
    ray = ray_options(parser, arguments)
    options = ReproduceOptions(**{item.name: getattr(arguments, item.name) for item in fields(ReproduceOptions)})
    command = shlex.join([*PROGRAM.split(), *(sys.argv[1:] if argv is None else argv)])
    try:
        rows = rows_of(options)
        check_threads(options.threads, elsewhere=ray is not None)
        require_root(options.data_root, options.dataset or rows[0].dataset)
        if ray is not None:
            require_ray()
    except (TrainingError, RayError) as error:
        say(f"error: {error}")
        return USAGE_ERROR
    with importing():
        from training.reproduce.reproduce import run
    return run(options, command, ray)
