"""A table of the paper with the measured figures beside its own."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from training.attacks.base import block_state
from training.evaluate.gradient_oracle import FORMAT as ORACLE_FORMAT
from training.reproduce.paper import ATTACKS, TABLES, PaperRow
from training.reproduce.runs import Run
from training.reproduce.systems import EXTRA, SYSTEMS

LOWEST = "lowest"
"""Not in the paper: pictures that withstood every attack that was run, the smooth surrogate's among them."""


@dataclass(frozen=True)
class Line:
    """A system in one state of its block, by attack: what was measured and what the paper reports, in percent.

    note: what a reader must know about the measured figures, or ""
    """

    title: str
    dataset: str
    measured: dict[str, float]
    paper: dict[str, float]
    note: str = ""


def lines_of(table: str, datasets: list[str]) -> list[PaperRow]:
    """A table's rows for these data sets, then the systems that are measured beside them."""
    rows = [row for row in TABLES[table] if row.dataset in datasets]
    extra = [
        PaperRow(system, dataset, {}, block=SYSTEMS[system].has_block)
        for dataset in datasets
        for system in EXTRA.get(table, ())
    ]
    return rows + extra


def measured(report: dict[str, Any], block: bool) -> dict[str, float]:
    """Accuracy in percent by attack, of one state of the block, out of `python -m training.evaluate`'s report."""
    state = block_state(block)
    if report["format"] == ORACLE_FORMAT:
        figures = {name: 100 * value for name, value in report["accuracy"].items()}
    else:
        figures = {row["title"]: 100 * row["accuracy"] for row in report["rows"] if row["id"]["state"] == state}
    if state in report.get("lowest", {}):
        figures[LOWEST] = 100 * report["lowest"][state]
    return figures


def line(table: str, row: PaperRow, run: Run, report: dict[str, Any]) -> Line:
    """A row of the table, with what the run's report says."""
    title = SYSTEMS[row.system].title
    if table == "table5":
        title += ", block on" if row.block else ", block off"
    notes = []
    if run.problem():
        notes.append(f"training stopped early ({run.problem()}); the best checkpoint until then was judged")
    # The checklist judges the state in which the network is used, and says nothing of the other.
    if row.block == SYSTEMS[row.system].has_block and report.get("robustness_likely_overestimated"):
        notes.append("the masking checklist says that these figures are likely too high")
    if row.system == "gradient-oracle":
        notes.append("is told the true label of every picture, so this is no measure of robustness")
    return Line(title, row.dataset, measured(report, row.block), row.figures, "; ".join(notes))


def columns(table: str) -> list[str]:
    """The paper's, and the lowest over all of them."""
    named = {attack for row in TABLES[table] for attack in row.figures}
    return [*(attack for attack in ATTACKS if attack in named), LOWEST]


def markdown(lines: list[Line], attacks: list[str]) -> str:
    """Two rows a system: measured, and the paper's where it has any."""
    several = len({item.dataset for item in lines}) > 1
    rows = ["| accuracy, % | | " + " | ".join(attacks) + " |", "| --- | --- |" + " ---: |" * len(attacks)]
    for item in lines:
        title = item.title + (f", {item.dataset}" if several else "") + ("*" if item.note else "")
        rows.append(f"| {title} | measured | {_cells(item.measured, attacks)} |")
        if item.paper:
            rows.append(f"| | paper | {_cells(item.paper, attacks)} |")
    notes = list(dict.fromkeys(f"\\* {item.title}: {item.note}." for item in lines if item.note))
    return "\n".join([*rows, *(text for note in notes for text in ("", note))])


def details(item: Line, run: Run, report: dict[str, Any]) -> dict[str, Any]:
    """A row for the JSON file: its figures, and the commands that they came from."""
    content = {
        **asdict(item),
        "training": run.shell_command(run.training_command(resume=False)),
        "evaluation": run.shell_command(run.evaluation_command()),
        "setting": report["setting"],
        "about": report["about"],
    }
    loaded: dict[str, Any] = json.loads(json.dumps(content))
    return loaded


def _cells(figures: dict[str, float], attacks: list[str]) -> str:
    return " | ".join(f"{figures[attack]:.1f}" if attack in figures else "-" for attack in attacks)
