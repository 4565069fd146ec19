"""Make the table of what it costs to judge a network, from the committed reports."""

from collections.abc import Iterable
from typing import Any

from docs.generator.markdown import figures_table
from docs.generator.results import result

REPORTS = {"wrn-16-2": "bundled/self-gradient", "wrn-10-2, SiLU": "tried/wrn-10-2-silu"}
"""The report that measures most of each architecture."""
FAMILIES = {
    "clean": "no attack",
    "fgsm": "FGSM",
    "pgd": "PGD-K, surrogates too",
    "cw": "CW-K, surrogates and transfer too",
    "apgd-ce": "APGD-CE, surrogates too",
    "apgd-t": "APGD-T, surrogates too",
    "fab-t": "FAB-T",
    "square": "Square",
    "noise": "random noise",
}
"""Attacks by the family of their row."""
_PICTURES = 1000


def judge_cost() -> str:
    """Return the core-hours of each family of attacks by architecture, for a thousand pictures."""
    columns = [
        (f"{architecture}, {state}", _hours(found, state))
        for architecture, name in REPORTS.items()
        for found in (result(name),)
        for state in dict.fromkeys(row["id"]["state"] for row in found["rows"])
    ]
    table = [
        (title, *(_cell([hours[family]] if family in hours else []) for _, hours in columns))
        for family, title in FAMILIES.items()
    ]
    table.append(("all", *(_cell(hours.values()) for _, hours in columns)))
    return figures_table(("core-hours", *(name for name, _ in columns)), table)


def _hours(report: dict[str, Any], state: str) -> dict[str, tuple[float, int]]:
    """Return the core-hours and the number of rows by family, for a thousand pictures.

    Raises:
        ValueError: A row is of another family.
    """
    found: dict[str, tuple[float, int]] = {}
    for row in report["rows"]:
        if row["id"]["state"] != state:
            continue
        family = row["id"]["family"]
        if family not in FAMILIES:
            raise ValueError(f"name the attacks of the family {family} in FAMILIES")
        hours, count = found.get(family, (0.0, 0))
        found[family] = (hours + row["core_seconds"] / 3600 * _PICTURES / report["setting"]["pictures"], count + 1)
    return found


def _cell(parts: Iterable[tuple[float, int]]) -> str:
    """Return the core-hours of rows together, and the number of rows, as a cell."""
    listed = list(parts)
    return f"{sum(hours for hours, _ in listed):.2f} ({sum(count for _, count in listed)})" if listed else "-"
