r"""Put a trained and evaluated network into sgn_serve/bundled, with its figures and its baselines' beside it.

    python -m release.bundle --self-gradient runs/smooth-16-2 --start runs/one-step-16-2 --longer runs/longer-16-2 \
        --pgd runs/pgd-16-2 --standard runs/standard-16-2 --first runs/start-16-2

Each run directory must hold model.safetensors, log.csv and the evaluation.json of `python -m training.evaluate`. That
one may be in the folder report/ with its page and plots. --first is the run whose weights --start continued from. Only
its training time is shown, so its log.csv is enough.

It writes:

- the graph, its checkpoint and model.json;
- results/bundled/: the reports and training logs;
- the table in README.md, as python -m docs.generator.readme does;
- the adversarial examples of the page at /ui.
"""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, command_parser, write_result
from benchmarks.precisions import SERVED
from export.figures import figures_of
from release.paired import anywhere
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import AUTO_KEY, BF16_KEY, GRAPH_SHA256_FIELD, SHA256_KEY, file_sha256
from sgn_serve.common.markdown import table
from training.attacks.rows import RowFilter, RowId, State, any_matches
from training.common import run_files
from training.common.errors import TrainingError
from training.evaluate.report import FORMAT
from training.evaluate.saved_report import different_settings

RESULTS = ROOT / "results" / "bundled"
BUNDLED = ROOT / "sgn_serve" / "bundled"
DISAGREEMENT = ROOT / "results" / "disagreement.json"
AUTO = ROOT / "results" / "auto.json"
PRECISIONS = ROOT / "results" / "precisions.json"
SYSTEMS = {
    "self-gradient": "self-gradient",
    "start": "one-step adversarial, the starting point",
    "longer": "one-step adversarial, equal time",
    "pgd": "Madry PGD-10",
    "standard": "standard",
}
WHOLE = "Square, and so AutoAttack"
"""Title of Square's row where all of AutoAttack was run."""
SQUARE = RowFilter.like(family="square")
CASCADED = (
    RowFilter.like(family="apgd-t"),
    RowFilter.like(family="fab-t"),
    RowFilter.like(family="apgd-ce", view="smooth"),
)
"""Rows that are run on what those before them left. AutoAttack's last, Square, may be too: its row is AutoAttack's."""
SHOWN = (
    RowFilter.like(family="clean"),
    RowFilter.like(family="fgsm"),
    *(RowFilter.exactly(RowId("block on", "pgd", steps=steps)) for steps in (10, 20)),
    RowFilter.exactly(RowId("block on", "cw", steps=20)),
    RowFilter.exactly(RowId("block on", "cw", steps=20, view="first-pass")),
    RowFilter.like(family="cw", steps=20, view="smooth", averaged=False),
    *(RowFilter.like(family=family) for family in ("apgd-ce", "apgd-t", "fab-t")),
    SQUARE,
)
"""Rows of the documentation's table; the page of the report has all of them."""
HEADLINE = "lowest accuracy per picture"
FIRST = "first"
EARLIER = {"self-gradient": (FIRST, "start"), "longer": (FIRST, "start"), "start": (FIRST,)}
"""The runs whose weights a system continued from; their time is its time too."""


class BundleError(TrainingError):
    """A run that cannot be bundled; the message names the file and the fix."""


def need(path: Path, command: str) -> None:
    """Check that a file is there.

    Raises:
        BundleError: It is not; the message names the command that writes it.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file; run `python -m {command}` first")


def copy_log(name: str, run: Path) -> None:
    """Copy a run's log to results/bundled.

    Raises:
        BundleError: There is no log.
    """
    need(run / run_files.LOG, "training")
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / run_files.LOG, RESULTS / f"{name}-training.csv")


def copy_run(name: str, run: Path) -> None:
    """Check a run directory, and copy its report and log to results/bundled.

    Raises:
        BundleError: A file is missing, or the report is of another form or another checkpoint.
    """
    need(run / run_files.CHECKPOINT, "training")
    whole = run / "report" / run_files.REPORT
    path = whole if whole.is_file() else run / run_files.REPORT
    need(path, "training.evaluate")
    report = json.loads(path.read_text())
    if report.get("format") != FORMAT:
        raise BundleError(f"{path} does not say format {FORMAT!r}; run `python -m training.evaluate` again")
    if report["setting"][SHA256_KEY] != file_sha256(run / run_files.CHECKPOINT):
        raise BundleError(f"{path} is of another checkpoint; run `python -m training.evaluate` again")
    copy_log(name, run)
    shutil.copy(path, RESULTS / f"{name}.json")
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    if path == whole:
        shutil.copytree(whole.parent, RESULTS / name, ignore=shutil.ignore_patterns("*.json", "*.row", "*.csv"))


def read_log(name: str) -> list[dict[str, float]]:
    """Return the rows of a run's log in results/bundled, without empty cells."""
    with (RESULTS / f"{name}-training.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def core_minutes(name: str) -> float:
    """Return the processor time of all epochs of a run and of those before it, in minutes."""
    return sum(read_log(run)[-1]["core_seconds"] for run in (*EARLIER.get(name, ()), name)) / 60


def read_reports() -> dict[str, dict[str, Any]]:
    """Return the reports in results/bundled, by the name of their system.

    Raises:
        BundleError: They are not of the same pictures and settings.
    """
    reports = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in SYSTEMS}
    own = (SHA256_KEY, "method", "plain_gradient")
    settings = [{k: v for k, v in report["setting"].items() if k not in own} for report in reports.values()]
    if any(different_settings(one, other) for one in settings for other in settings):
        raise BundleError("the evaluations differ in pictures, seed or epsilon; run them with the same settings")
    return reports


def summary() -> dict[str, Any]:
    """Return the content of model.json: what export puts beside the graph, baselines, and the block over training.

    Raises:
        BundleError: The reports are not of the same pictures and settings.
    """
    reports = read_reports()
    main = reports["self-gradient"]
    block_columns = ("epoch", "block_correction_mean_abs", "block_correction_change", "block_answers_changed")
    figures = {
        **figures_of(main, file_sha256(BUNDLED / "model.onnx")),
        "block_over_training": [{key: row[key] for key in block_columns} for row in read_log("self-gradient")],
        "training_core_minutes": {name: round(core_minutes(name), 1) for name in SYSTEMS},
        "baselines": {
            name: {
                "headline": report["headline"],
                "rows": _rows(report, "id", "title", "accuracy"),
                "auto_attack": report["auto_attack"],
            }
            for name, report in reports.items()
            if name != "self-gradient"
        },
    }
    disagreement = json.loads(DISAGREEMENT.read_text())
    if disagreement[SHA256_KEY] == figures["setting"][SHA256_KEY]:
        for row in disagreement["attacks"].values():
            for detection in (row, row["successful_only"]):
                detection.pop("roc", None)  # the curve stays in results/
        figures["disagreement"] = disagreement
    auto = json.loads(AUTO.read_text())
    if auto[SHA256_KEY] == figures["setting"][SHA256_KEY]:
        figures[AUTO_KEY] = auto_figures(auto)
    bf16 = json.loads(PRECISIONS.read_text())["rows"].get(SERVED, {})
    if bf16.get(GRAPH_SHA256_FIELD) == figures[GRAPH_SHA256_FIELD]:
        figures[BF16_KEY] = bf16_figures(bf16)
    return figures


def bf16_figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return what model.json holds of a row of results/precisions.json: how often bfloat16 gives float32's answer."""
    kept = ("pictures", GRAPH_SHA256_FIELD, "openvino", "processor", "git_commit")
    return {"agreement": row["lowest"], "outputs": list(row["agreement"].values()), **{key: row[key] for key in kept}}


def auto_figures(auto: dict[str, Any]) -> dict[str, Any]:
    """Return what model.json holds of results/auto.json: the threshold that the service uses, and what it does.

    Args:
        auto: The result of release.auto. What was not measured yet is left out.
    """
    found = auto["margin"]
    kept: dict[str, Any] = {name: auto[name] for name in ("pgd_20", "slow_down") if name in auto}
    attacked = auto.get("attacked")
    if attacked is not None:
        kept["attacked"] = {name: attacked[name] for name in ("pictures", "lowest", "interval_95", "not_run")}
    validation = {"asked_agreement": found["asked_agreement"], "split": "validation", **found["validation"]}
    return {**validation, "test": found["test"], **kept}


def _rows(report: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    """Return the rows of a report with these of their values."""
    return [{key: row[key] for key in keys} for row in report["rows"]]


@dataclass(frozen=True)
class Line:
    """A line of the documentation's table.

    Attributes:
        row: The row of the reports, in a neutral state.
        whole: Whether it stands for all of AutoAttack, and not for Square alone.
    """

    row: RowId
    whole: bool = False

    @property
    def title(self) -> str:
        """Title of the line, with a dagger where the row is run on what those before it left."""
        title = WHOLE if self.whole else self.row.title
        return title + " †" * self.cascaded

    @property
    def cascaded(self) -> bool:
        """Whether the row is run on what those before it left."""
        return self.whole or any_matches(CASCADED, self.row)


def lines(figures: dict[str, Any]) -> list[tuple[State, Line, float]]:
    """Return state, line and accuracy of each row; in Square's place what AutoAttack left, where all four were run."""
    found = []
    for entry in figures["rows"]:
        row = RowId.from_dict(entry["id"])
        whole = SQUARE.matches(row) and row.state in figures["auto_attack"]
        accuracy = figures["auto_attack"][row.state] if whole else entry["accuracy"]
        found.append((row.state, Line(anywhere(row), whole), accuracy))
    return found


def column(figures: dict[str, Any], state: State) -> dict[Line, float]:
    """Return the accuracies of a state by line."""
    return {line: accuracy for one, line, accuracy in lines(figures) if one == state}


def readme_table(figures: dict[str, Any]) -> str:
    """Return the documentation's table of model.json's figures, in Markdown."""
    baselines = figures["baselines"]
    columns = {
        "self-gradient, block on": column(figures, "block on"),
        "the same, block off": column(figures, "block off"),
        **{SYSTEMS[name]: column(base, "block off") for name, base in baselines.items()},
    }
    in_order = [found for report in (figures, *baselines.values()) for found in lines(report)]
    every = list(dict.fromkeys(line for state, line, _ in in_order if state != "exported graph"))
    shown = [line for line in every if any_matches(SHOWN, line.row)]
    rows = [[line.title, *(_percent(cells.get(line)) for cells in columns.values())] for line in shown]
    lows = [figures["headline"][HEADLINE], figures["lowest"]["block off"]]
    lows += [base["headline"][HEADLINE] for base in baselines.values()]
    # Attacks that only a network with a block allows are no shortcoming of a column without them.
    expected = {line for cells in columns.values() for line in cells if not line.row.needs_block}
    fewer = [not expected <= cells.keys() for cells in columns.values()]
    marked = [f"**{_percent(low)}**{' *' if less else ''}" for low, less in zip(lows, fewer, strict=True)]
    rows.append(["**lowest, per picture**", *marked])
    minutes = figures["training_core_minutes"]
    times = [minutes["self-gradient"], minutes["self-gradient"], *(minutes[name] for name in baselines)]
    rows.append(["training, core-minutes", *(f"{time:.0f}" for time in times)])
    text = [table(["accuracy, %", *columns], rows, "l" + "r" * len(columns))]
    if any(line.cascaded for line in shown):
        text += [
            "",
            "† run only on the pictures that withstood the costly rows above: the share that withstood this row too.",
        ]
    if len(shown) < len(every):
        page = (RESULTS / "self-gradient" / run_files.PAGE).relative_to(ROOT).as_posix()
        more = f"{len(every) - len(shown)} more attacks, where they were run: [the whole report]({page})."
        text += ["", f"The lowest figures count {more}"]
    if any(fewer):
        text += ["", "\\* the attacks with a dash were not run on this network, so its true figure may be lower."]
    return "\n".join(text)


def _percent(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def main() -> int:
    """Run the command line, and return its exit status."""
    parser = command_parser("release.bundle", __doc__)
    for name, title in SYSTEMS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="RUN", help=f"run directory: {title}")
    parser.add_argument(
        f"--{FIRST}", type=Path, required=True, metavar="RUN", help="run directory: what --start continued from"
    )
    arguments = parser.parse_args()
    try:
        copy_log(FIRST, getattr(arguments, FIRST))
        for name in SYSTEMS:
            copy_run(name, getattr(arguments, name.replace("-", "_")))
        read_reports()  # refused before the export, which takes longer
        BUNDLED.mkdir(parents=True, exist_ok=True)
        checkpoint = BUNDLED / run_files.CHECKPOINT
        shutil.copy(arguments.self_gradient / run_files.CHECKPOINT, checkpoint)
        export = ["-m", "export", "--ckpt", str(checkpoint), "--onnx", str(BUNDLED / "model.onnx")]
        export += ["--pictures", str(ROOT / "examples"), "--evaluation", str(RESULTS / "self-gradient.json")]
        subprocess.run([sys.executable, *export], check=True, cwd=ROOT)
        figures = summary()
        write_result(BUNDLED / "model.json", figures)
        subprocess.run([sys.executable, "-m", "docs.generator.readme"], check=True, cwd=ROOT)
        examples = ["-m", "release.adversarial_examples", "--plain", str(arguments.standard / run_files.CHECKPOINT)]
        subprocess.run([sys.executable, *examples], check=True, cwd=ROOT)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
