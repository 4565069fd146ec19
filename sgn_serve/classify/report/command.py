"""The command `sgn report`: its options."""

from pathlib import Path

from sgn_serve.common.command_parser import CommandParser, folder_to_write
from sgn_serve.common.error_text import encodable
from sgn_serve.common.interrupts import importing
from sgn_serve.common.refusals import ServingError, refused

PROGRAM = "python -m sgn_serve.classify.report"


def build_parser(program: str = PROGRAM) -> CommandParser:
    """Return the parser.

    Args:
        program: Name of the program in --help and errors.
    """
    parser = CommandParser(
        program,
        description="Compares the answers of sgn classify with the true labels: accuracy with its interval, by class, "
        "a confusion matrix and a histogram of the disagreement.",
    )
    parser.add_argument("answers", type=Path, metavar="ANSWERS", help="what sgn classify wrote: .parquet, .csv, .jsonl")
    parser.add_argument(
        "--truth",
        required=True,
        type=Path,
        metavar="FILE",
        help="CSV file with the columns path and label; the paths as in ANSWERS, the labels as the model names them",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=folder_to_write,
        metavar="FOLDER",
        help="folder for report.md, report.json and two pictures",
    )
    return parser


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Write the report, and return the exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    parsed = build_parser(program).parse_args(argv)
    with importing():
        from sgn_serve.classify.report.write import write_report

    try:
        print(encodable(write_report(parsed.answers, parsed.truth, parsed.out)))
    except ServingError as error:
        return refused(error)
    return 0
