"""A table's rows beside the paper's."""

import torch

from training import options
from training.evaluate.gradient_oracle import FORMAT as ORACLE_FORMAT
from training.evaluate.report import FORMAT
from training.reproduce.experiment import DataSource, Experiment
from training.reproduce.paper import TABLES
from training.reproduce.systems import BUDGETS, SYSTEMS
from training.reproduce.tables import LOWEST, Line, columns, line, markdown, measured, other_rows
from training.reproduce.targets import lines_of


def test_the_checklists_verdict_stands_beside_the_state_that_it_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = ("block on", "block off")
    rows = [{"id": {"state": state, "family": "clean"}, "title": "clean", "accuracy": 0.5} for state in states]
    report = {"format": FORMAT, "rows": rows, "robustness_likely_overestimated": True}
    notes = {}
    for table in ("table2", "table5"):
        for row in lines_of(table, ["cifar10"]):
            run = Experiment(
                row.system, DataSource("cifar10", "cifar10", tmp_path, ""), "smoke", BUDGETS["smoke"], None
            )
            made = line(table, row, run, report)
            notes[made.title] = made.note
    assert "likely too high" not in notes.pop("self-gradient, block off")
    assert all("likely too high" in note for note in notes.values())


def test_every_row_is_a_method_that_trains():
    for table, rows in TABLES.items():
        datasets = list({row.dataset for row in rows})
        for row in lines_of(table, datasets):
            for name, budget in BUDGETS.items():
                flags = ["--dataset", row.dataset, "--data-root", "x", "--arch", budget.arch]
                arguments = options.parse([*flags, *budget.flags, *SYSTEMS[row.system].flags])
                with torch.device("meta"):  # the backbone is built to see that it can be, and thrown away
                    config = options.configure(arguments, torch.device("cpu"))
                if name == "paper":
                    assert config.epochs == 200
            assert row.figures.keys() <= set(columns(table))


def test_the_measured_figures_are_those_of_one_state_of_the_block():
    rows = [
        {"id": {"state": state, "family": "clean"}, "title": "clean", "accuracy": accuracy}
        for state, accuracy in (("block on", 0.75), ("block off", 0.5))
    ]
    report = {"format": FORMAT, "rows": rows, "lowest": {"block on": 0.25}}
    assert measured(report, block=True) == {"clean": 75, LOWEST: 25}
    assert measured(report, block=False) == {"clean": 50}
    told = {"format": ORACLE_FORMAT, "accuracy": {"PGD-10": 0.5, "clean, not told the labels": 0.25}}
    assert measured(told, block=False) == {"PGD-10": 50}
    assert other_rows(told, block=False) == [{"title": "clean, not told the labels", "accuracy": 25}]


def test_a_figure_stands_below_a_heading_by_what_its_row_is_and_not_by_its_title():
    state = "block off"
    surrogate = {"state": state, "family": "cw", "steps": 20, "view": "smooth", "beta": 20.0}
    rows = [
        {"id": {"state": state, "family": "cw", "steps": 20}, "title": "renamed", "accuracy": 0.5},
        {"id": surrogate, "title": "CW-20", "accuracy": 0.25},
    ]
    report = {"format": FORMAT, "rows": rows}
    assert measured(report, block=False) == {"CW-20": 50}
    title = "CW-20, smooth surrogate, beta 20"
    assert other_rows(report, block=False) == [{"id": surrogate, "title": title, "accuracy": 25}]


def test_a_table_has_a_row_of_measured_figures_and_one_of_the_papers():
    lines = [
        Line("TRADES", "cifar10", {"clean": 81.25, LOWEST: 40.0}, {"clean": 84.92}, note="stopped early"),
        Line("Ours", "svhn", {"clean": 90.0, LOWEST: 50.0}, {}),
        Line("TRADES", "svhn", {"clean": 91.0, LOWEST: 45.0}, {}, note="stopped early"),
    ]
    assert markdown(lines, ["clean", "PGD-10", LOWEST]).splitlines() == [
        "| accuracy, % |  | clean | PGD-10 | lowest |",
        "| --- | --- | ---: | ---: | ---: |",
        "| TRADES, cifar10* | measured | 81.2 | - | 40.0 |",
        "|  | paper | 84.9 | - | - |",
        "| Ours, svhn | measured | 90.0 | - | 50.0 |",
        "| TRADES, svhn* | measured | 91.0 | - | 45.0 |",
        "",
        "\\* TRADES: stopped early.",
    ]


def test_systems_that_the_paper_lacks_come_after_its_own():
    systems = [row.system for row in lines_of("table2", ["cifar10"])]
    assert systems[-2:] == ["trades", "self-gradient-literal"]
    assert systems[:-2] == [row.system for row in TABLES["table2"]]
