"""Read the committed results."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

from release.paired import compare, in_words
from training.attacks.rows import RowId

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"

ON, OFF = "block on", "block off"
SHARED_QUICK = ("clean", "FGSM", "PGD-10", "PGD-20", "CW-20")
"""Rows of the quick attacks that a network has with its block off too."""
QUICK = (
    *SHARED_QUICK,
    "CW-20, transfer from block off",
    *(f"CW-20, smooth surrogate, beta {beta}" for beta in (5, 20, 100)),
)
CHANCE = 0.1
"""A difference is within chance where its p-value is above this."""
AUTO_ATTACK = ("APGD-CE", "APGD-T", "FAB-T", "Square")


@cache
def result(name: str) -> dict[str, Any]:
    """Return the content of results/NAME.json."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


@cache
def rows(report: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a robustness report by their labels, such as "block on: CW-20"."""
    return {RowId.from_dict(entry["id"]).label: entry for entry in result(report)["rows"]}


@cache
def training_log(name: str) -> list[dict[str, str]]:
    """Return the rows of results/NAME-training.csv, one an epoch."""
    with (RESULTS / f"{name}-training.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def processor(measured: dict[str, Any]) -> str:
    """Return the name of the processor that a result was measured on."""
    return str(measured["processor"]).partition(" (")[0]


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def accuracy(report: str, row: str) -> float:
    """Return the accuracy of a row of a robustness report.

    Args:
        report: the report's name under results/, such as bundled/self-gradient
        row: "block on: CW-20", for instance, or "block on: lowest" for the lowest accuracy per picture

    Raises:
        KeyError: a row that the report does not have
    """
    content = result(report)
    state, _, name = row.partition(": ")
    if name == "lowest":
        return float(content["lowest"][state])
    if name == "AutoAttack":
        return float(content["auto_attack"][state])
    return float(rows(report)[row]["accuracy"])


def survivors(report: str, state: str, titles: tuple[str, ...]) -> list[bool]:
    """Return, picture by picture, whether it withstood every one of these rows that the report has."""
    labels = [f"{state}: {title}" for title in titles]
    marks = [rows(report)[label]["withstood"] for label in labels if label in rows(report)]
    return [all(mark == "1" for mark in picture) for picture in zip(*marks, strict=True)]


def share(bits: list[bool]) -> float:
    """Return the share of pictures that withstood."""
    return sum(bits) / len(bits)


def paired(one: list[bool], other: list[bool]) -> str:
    """Return how often one network withstood what the other did not, the reverse, and the sign test's p."""
    return in_words(compare(one, other))


def reproduced(table: str, title: str) -> dict[str, Any]:
    """Return a row of a table of results/reproduce/small.

    Raises:
        KeyError: a system that the table does not have
    """
    systems: dict[str, dict[str, Any]] = {row["title"]: row for row in result(f"reproduce/small/{table}")["rows"]}
    return systems[title]


def frozen_comparisons() -> list[tuple[str, dict[str, Any]]]:
    """Return how a block that was trained alone compares with its backbone, by the attacks that both met."""
    report = "frozen-backbone"
    strong = tuple(name for name in AUTO_ATTACK if {f"{state}: {name}" for state in (ON, OFF)} <= rows(report).keys())
    compared = (
        ("clean", ("clean",)),
        ("lowest of the quick attacks", QUICK),
        (f"lowest of these, {' and '.join(strong)}", (*QUICK, *strong)),
    )
    return [(title, compare(*(survivors(report, state, titles) for state in (ON, OFF)))) for title, titles in compared]


def frozen_verdict(compared: list[tuple[str, dict[str, Any]]]) -> str:
    """Return a sentence that says which of these differences are beyond chance."""
    beyond = [(title, row) for title, row in compared if row["p"] <= CHANCE]
    if not beyond:
        return f"The block alone gains nothing here: the differences are within chance (p > {CHANCE:g})."
    told = [f"{title}: {'better' if row['won'] > row['lost'] else 'worse'} with it" for title, row in beyond]
    return f"The block alone makes a difference beyond chance (p <= {CHANCE:g}); {'; '.join(told)}."
