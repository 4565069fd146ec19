"""`python -m training.reproduce table2`: a table or figure of the paper, trained, judged and set beside the paper's."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from training.common.devices import check_threads
from training.common.files import WriteError, write_atomically
from training.common.provenance import current_versions, git_commit
from training.common.signals import Terminated, terminable
from training.data.loading import DATASETS, load_pictures
from training.data.picture_set import DatasetError
from training.reproduce import figure
from training.reproduce.paper import FIGURE_2, TABLES, PaperRow
from training.reproduce.runs import ReproductionError, Run, Source
from training.reproduce.systems import BUDGETS
from training.reproduce.tables import Line, columns, details, line, lines_of, markdown

FORMAT = "self-gradient-reproduction/1"
FIGURE = "figure2"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training.reproduce",
        description="Trains what a table of the paper needs and is not in runs/reproduce yet, judges it, and prints "
        "the paper's figures beside the measured ones. Interrupted, the same command goes on.",
        epilog="budgets:\n" + "\n".join(f"  {name:<5}  {budget.purpose}" for name, budget in BUDGETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=(*TABLES, FIGURE), help="what to reproduce")
    parser.add_argument("--budget", choices=BUDGETS, default="paper", help="listed below (default: paper)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets' archives")
    parser.add_argument(
        "--only",
        choices=sorted({row.dataset for rows in TABLES.values() for row in rows}),
        help="of a table over several data sets, this one alone",
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, help="image-folder, where --data-root holds pictures in the archive's stead"
    )
    parser.add_argument("--dataset-name", default="", help="what figures call the pictures of an image folder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--out", type=Path, help="folder of the result (default: results/reproduce/<budget>)")
    return parser


def rows_of(arguments: argparse.Namespace) -> list[PaperRow]:
    """What is asked for, line by line.

    raises ReproductionError for a data set that the table does not have, and for pictures of no one data set
    """
    if arguments.target == FIGURE:
        return [FIGURE_2]
    datasets = list(dict.fromkeys(row.dataset for row in TABLES[arguments.target]))
    if arguments.only is not None:
        if arguments.only not in datasets:
            raise ReproductionError(f"{arguments.target} is about {', '.join(datasets)}, not {arguments.only}")
        datasets = [arguments.only]
    if arguments.dataset is not None and len(datasets) > 1:
        raise ReproductionError(
            f"--dataset {arguments.dataset} is one data set and {arguments.target} has {len(datasets)}; "
            f"say which with --only {datasets[0]}"
        )
    return lines_of(arguments.target, datasets)


def run_of(row: PaperRow, arguments: argparse.Namespace) -> Run:
    source = Source(row.dataset, arguments.dataset or row.dataset, arguments.data_root, arguments.dataset_name)
    return Run(row.system, source, arguments.budget, BUDGETS[arguments.budget], arguments.threads)


def check_data(runs: list[Run]) -> None:
    """raises DatasetError where the pictures of any run are missing, before the first of them is trained"""
    sources = list(dict.fromkeys(run.source for run in runs))
    for source in sources:
        try:
            load_pictures(source.reader, source.data_root, "test")
        except DatasetError as error:
            if len(sources) == 1:
                raise
            others = " or ".join(f"--only {other.dataset}" for other in sources if other != source)
            raise DatasetError(f"{error}; or do without: {others}") from None


def reproduce_table(rows: list[PaperRow], runs: list[Run], table: str) -> tuple[str, dict[str, Any]]:
    """Row by row: trains and judges; returns the table as text and as JSON values."""
    lines: list[Line] = []
    content = []
    for row, run in zip(rows, runs, strict=True):
        run.train()
        report = run.judge()
        lines.append(line(table, row, run, report))
        content.append(details(lines[-1], run, report))
    return markdown(lines, columns(table)), {"rows": content}


def reproduce_figure(run: Run, folder: Path) -> tuple[str, dict[str, Any]]:
    """Trains the network, draws figure2.png; returns its points as text and as JSON values."""
    run.train()
    iterations = figure.iterate_run(run)
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw(iterations, folder / f"{FIGURE}.png")
    return figure.text(iterations), figure.as_dict(iterations, run)


def reproduce(arguments: argparse.Namespace, command: str) -> str:
    """Makes what is asked for, and writes <target>.json and <target>.md; returns what to print.

    raises ReproductionError, ValueError (DatasetError is one), WriteError
    """
    rows = rows_of(arguments)
    check_threads(arguments.threads)
    runs = [run_of(row, arguments) for row in rows]
    check_data(runs)
    for run in runs:
        run.check()
    folder: Path = arguments.out or Path("results/reproduce") / arguments.budget
    if arguments.target == FIGURE:
        text, content = reproduce_figure(runs[0], folder)
    else:
        text, content = reproduce_table(rows, runs, arguments.target)
    about = {"command": command, "versions": current_versions(), "git_commit": git_commit()}
    whole = {"format": FORMAT, "target": arguments.target, "budget": arguments.budget, **content, "about": about}
    write_atomically(folder / f"{arguments.target}.json", (json.dumps(whole, indent=1) + "\n").encode())
    write_atomically(folder / f"{arguments.target}.md", f"{text}\n\nMade by `{command}`.\n".encode())
    return f"{text}\n\nwrote {folder / arguments.target}.json and .md"


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    command = shlex.join(["python", "-m", "training.reproduce", *(sys.argv[1:] if argv is None else argv)])
    try:
        # A process that is being waited for ends with this one.
        with terminable():
            print(reproduce(arguments, command))
    except (ReproductionError, ValueError, WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated) as stop:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0
