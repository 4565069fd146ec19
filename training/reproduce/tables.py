"""Make a table of the paper with the measured figures beside the paper's."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from sgn_serve.common.markdown import table as markdown_table
from training.attacks.base import block_state
from training.attacks.rows import RowId, State
from training.evaluate.gradient_oracle import FORMAT as ORACLE_FORMAT
from training.reproduce.experiment import Experiment
from training.reproduce.paper import ATTACKS, TABLES, PaperRow
from training.reproduce.systems import SYSTEMS

LOWEST = "lowest"
"""A column that the paper lacks: pictures that withstood every attack that was run, the smooth surrogate's too."""


@dataclass(frozen=True)
class Line:
    """The figures of a system in one state of its block, in percent.

    Attributes:
        title: The system's name, with the block's state in table 5.
        dataset: cifar10, cifar100 or svhn.
        measured: The measured accuracies by heading.
        paper: The paper's by heading.
        note: A caveat about the measured ones, or "".
    """

    title: str
    dataset: str
    measured: dict[str, float]
    paper: dict[str, float]
    note: str = ""


def measured(report: dict[str, Any], block: bool) -> dict[str, float]:
    """Return the accuracies in percent by heading, for one state of the block, from an evaluation's report."""
    state = block_state(block)
    if report["format"] == ORACLE_FORMAT:
        return {name: 100 * value for name, value in report["accuracy"].items() if name in ATTACKS}
    rows = _rows(report, state)
    wanted = {heading: RowId(state, family, steps) for heading, (family, steps) in ATTACKS.items()}
    figures = {heading: 100 * rows[row] for heading, row in wanted.items() if row in rows}
    if state in report.get("lowest", {}):
        figures[LOWEST] = 100 * report["lowest"][state]
    return figures


def other_rows(report: dict[str, Any], block: bool) -> list[dict[str, Any]]:
    """Return the report's figures in percent that no heading of the paper's stands above, each with its title.

    Those of a gradient oracle, which is told the labels, are no rows of an attack and have no id.
    """
    state = block_state(block)
    if report["format"] == ORACLE_FORMAT:
        figures = report["accuracy"].items()
        return [{"title": name, "accuracy": 100 * value} for name, value in figures if name not in ATTACKS]
    shown = {RowId(state, family, steps) for family, steps in ATTACKS.values()}
    return [
        {"id": row.as_dict(), "title": row.title, "accuracy": 100 * accuracy}
        for row, accuracy in _rows(report, state).items()
        if row not in shown
    ]


def _rows(report: dict[str, Any], state: State) -> dict[RowId, float]:
    rows = {RowId.from_dict(row["id"]): row["accuracy"] for row in report["rows"]}
    return {row: accuracy for row, accuracy in rows.items() if row.state == state}


def line(table: str, row: PaperRow, experiment: Experiment, report: dict[str, Any]) -> Line:
    """Return a row of the table with the figures of the experiment's report."""
    title = SYSTEMS[row.system].title
    if table == "table5":
        title += ", block on" if row.block else ", block off"
    notes = []
    if experiment.problem():
        notes.append(f"training stopped early ({experiment.problem()}); the best checkpoint until then was judged")
    # The checklist judges the state in which the network is used, and not the other one.
    if row.block == SYSTEMS[row.system].has_block and report.get("robustness_likely_overestimated"):
        notes.append("the masking checklist says that these figures are likely too high")
    if row.system == "gradient-oracle":
        notes.append("is told the true label of every picture, so this is no measure of robustness")
    return Line(title, row.dataset, measured(report, row.block), row.figures, "; ".join(notes))


def columns(table: str) -> list[str]:
    """Return the attacks in the table's columns: the paper's, then the lowest over all that were run."""
    named = {attack for row in TABLES[table] for attack in row.figures}
    return [*(attack for attack in ATTACKS if attack in named), LOWEST]


def markdown(lines: list[Line], attacks: list[str]) -> str:
    """Return a Markdown table with two rows for a system: the measured figures, and the paper's where it has any."""
    several = len({item.dataset for item in lines}) > 1
    header = ["accuracy, %", "", *attacks]
    rows = []
    for item in lines:
        title = item.title + (f", {item.dataset}" if several else "") + ("*" if item.note else "")
        rows.append([title, "measured", *_cells(item.measured, attacks)])
        if item.paper:
            rows.append(["", "paper", *_cells(item.paper, attacks)])
    notes = list(dict.fromkeys(f"\\* {item.title}: {item.note}." for item in lines if item.note))
    written = markdown_table(header, rows, "ll" + "r" * len(attacks))
    return "\n".join([written, *(text for note in notes for text in ("", note))])


def details(item: Line, block: bool, experiment: Experiment, report: dict[str, Any]) -> dict[str, Any]:
    """Return a row for the JSON file: its figures, and the commands that they came from."""
    content = {
        **asdict(item),
        "other_rows": other_rows(report, block),
        "training": experiment.shell_command(experiment.training_command(resume=False)),
        "evaluation": experiment.shell_command(experiment.evaluation_command()),
        "setting": report["setting"],
        "about": report["about"],
    }
    loaded: dict[str, Any] = json.loads(json.dumps(content))
    return loaded


def _cells(figures: dict[str, float], attacks: list[str]) -> list[str]:
    return [f"{figures[attack]:.1f}" if attack in figures else "-" for attack in attacks]
