"""A table of the paper with the measured figures beside its own."""

from dataclasses import dataclass
from typing import Any

from training.reproduce.paper import ATTACKS, TABLES, PaperRow
from training.reproduce.systems import EXTRA, SYSTEMS


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
    prefix = f"block {'on' if block else 'off'}: "
    # A gradient oracle's report has one state, which it does not name.
    return {
        key.removeprefix(prefix): 100 * value
        for key, value in report["accuracy"].items()
        if key.startswith(prefix) or not key.startswith("block ")
    }


def line(row: PaperRow, report: dict[str, Any], note: str, table: str) -> Line:
    title = SYSTEMS[row.system].title
    if table == "table5":
        title += ", block on" if row.block else ", block off"
    return Line(title, row.dataset, measured(report, row.block), row.figures, note)


def markdown(lines: list[Line], attacks: list[str]) -> str:
    """Two rows a system, measured and the paper's."""
    datasets = {item.dataset for item in lines}
    rows = ["| accuracy, % | | " + " | ".join(attacks) + " |", "| --- | --- |" + " ---: |" * len(attacks)]
    for item in lines:
        title = item.title + (f", {item.dataset}" if len(datasets) > 1 else "") + ("*" if item.note else "")
        rows.append(f"| {title} | measured | {_cells(item.measured, attacks)} |")
        if item.paper:
            rows.append(f"| | paper | {_cells(item.paper, attacks)} |")
    notes = [f"* {item.title}: {item.note}" for item in lines if item.note]
    return "\n".join(rows + ([""] + notes if notes else []))


def attacks_of(table: str) -> list[str]:
    """The columns that the paper's table has."""
    named = {attack for row in TABLES[table] for attack in row.figures}
    return [attack for attack in ATTACKS if attack in named]


def _cells(figures: dict[str, float], attacks: list[str]) -> str:
    return " | ".join(f"{figures[attack]:.1f}" if attack in figures else "-" for attack in attacks)
