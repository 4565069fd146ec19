"""`python -m training.reproduce table2`: a table or figure of the paper, trained, judged and set beside the paper's."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from training.checkpoint import current_versions, git_commit
from training.data import DATASETS
from training.reproduce.paper import TABLES
from training.reproduce.runs import ReproductionError, Run, Source
from training.reproduce.systems import BUDGETS
from training.reproduce.tables import Line, attacks_of, line, lines_of, markdown

FORMAT = "self-gradient-reproduction/1"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training.reproduce",
        description="Trains what a table of the paper needs and is not in runs/reproduce yet, judges it, and prints the "
        "paper's figures beside the measured ones. Interrupted, the same command goes on.",
    )
    parser.add_argument("target", choices=(*TABLES, "figure2"), help="what to reproduce")
    parser.add_argument(
        "--budget", choices=BUDGETS, default="paper", help="paper: its recipe, days on a GPU; small: hours of a CPU"
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets' archives")
    parser.add_argument(
        "--dataset", choices=DATASETS, help="reader of --data-root, where it is not the paper's archive: image-folder"
    )
    parser.add_argument("--dataset-name", default="", help="what figures call the pictures of an image folder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--out", type=Path, help="folder of the result (default: results/reproduce/<budget>)")
    return parser


def reproduce_table(arguments: argparse.Namespace, command: str) -> str:
    """Trains and judges what a table's rows need, row by row, and writes <table>.json and <table>.md.

    returns: the table as text
    raises ReproductionError
    """
    budget = BUDGETS[arguments.budget]
    datasets = list(dict.fromkeys(row.dataset for row in TABLES[arguments.target]))
    if arguments.dataset == "image-folder":
        # A folder of pictures is one data set; the paper's first is what it stands in for.
        datasets = datasets[:1]
    lines: list[Line] = []
    details = []
    for row in lines_of(arguments.target, datasets):
        source = Source(row.dataset, arguments.dataset or row.dataset, arguments.data_root, arguments.dataset_name)
        run = Run(row.system, source, arguments.budget, budget, arguments.threads)
        report = run.complete()
        problem = run.problem()
        note = f"training stopped early ({problem}); the best checkpoint before that was judged" if problem else ""
        lines.append(line(row, report, note, arguments.target))
        details.append(
            {
                **asdict(lines[-1]),
                "training": "python " + shlex.join(run.training_command(resume=False)),
                "evaluation": "python " + shlex.join(run.evaluation_command()),
                "setting": report["setting"],
                "core_seconds_of_training": report["about"]["core_seconds_of_training"],
            }
        )
    text = markdown(lines, attacks_of(arguments.target))
    folder = arguments.out or Path("results/reproduce") / arguments.budget
    folder.mkdir(parents=True, exist_ok=True)
    about = {"command": command, "versions": current_versions(), "git_commit": git_commit()}
    content = {"format": FORMAT, "table": arguments.target, "rows": details, "about": about}
    (folder / f"{arguments.target}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{arguments.target}.md").write_text(f"{text}\n\nMade by `{command}`.\n")
    return f"{text}\n\nwrote {folder / arguments.target}.json and .md"


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    command = shlex.join(["python", "-m", "training.reproduce", *(sys.argv[1:] if argv is None else argv)])
    try:
        print(reproduce_table(arguments, command))
    except ReproductionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
