"""Compares the bundled network with its baselines picture by picture, from the reports in results/bundled.

    python -m release.paired

Writes results/paired.json. Accuracies of two networks on the same pictures differ by what the one withstands and the
other does not; how often that went which way tells chance from difference far better than two confidence intervals do.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "results" / "bundled"
RESULT = ROOT / "results" / "paired.json"

Side = tuple[str, str, str]
"""Report, block on or off, and a row's name or LOWEST."""
LOWEST = "lowest, per picture"
COMPARISONS: dict[str, tuple[Side, Side]] = {
    "block on against off": (("self-gradient", "block on", LOWEST), ("self-gradient", "block off", LOWEST)),
    "block on against the plain network of equal time": (
        ("self-gradient", "block on", LOWEST),
        ("longer", "block off", LOWEST),
    ),
    "the same, clean accuracy": (("self-gradient", "block on", "clean"), ("longer", "block off", "clean")),
    "block off against the plain network that it started from": (
        ("self-gradient", "block off", LOWEST),
        ("start", "block off", LOWEST),
    ),
}


def withstood(report: Mapping[str, Any], state: str, row: str, left_out: Collection[str] = ()) -> list[bool]:
    """Picture by picture: whether it withstood that row, or for LOWEST every row of that state but those left out."""
    rows: Mapping[str, str] = report["withstood"]
    names = [name for name in names_of(report, state) if name not in left_out] if row == LOWEST else [row]
    return [
        all(bit == "1" for bit in picture)
        for picture in zip(*(rows[f"{state}: {name}"] for name in names), strict=True)
    ]


def names_of(report: Mapping[str, Any], state: str) -> list[str]:
    """The rows of a state, without its name."""
    return [key.removeprefix(f"{state}: ") for key in report["withstood"] if key.startswith(f"{state}: ")]


def needs_the_block(name: str) -> bool:
    """Whether an attack can be run on a network with its block on only."""
    return any(part in name for part in ("surrogate", "from block off", "both passes", "straight-through"))


def run_on_one_only(
    one: Mapping[str, Any], one_state: str, other: Mapping[str, Any], other_state: str
) -> tuple[str, ...]:
    """Attacks that one side's lowest figure counts and the other's could, but does not: they would make it unfair."""
    unequal = set(names_of(one, one_state)) ^ set(names_of(other, other_state))
    return tuple(sorted(name for name in unequal if not needs_the_block(name)))


def sign_test(won: int, lost: int) -> float:
    """How probable so uneven a split is, either way round, if each was as likely as the other (exact, two-sided)."""
    count = won + lost
    return min(1.0, 2 * sum(comb(count, k) for k in range(min(won, lost) + 1)) / 2**count)


def compare(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """won: pictures that the first withstood and the second did not; lost: the other way round"""
    won = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    return {
        "accuracy": [sum(first) / len(first), sum(second) / len(second)],
        "won": won,
        "lost": lost,
        "p": round(sign_test(won, lost), 4),
    }


def in_words(row: Mapping[str, Any]) -> str:
    """A comparison as texts quote it."""
    p = f"p = {row['p']:.2f}" if row["p"] >= 0.01 else "p < 0.01"
    return f"{row['won']} won, {row['lost']} lost, {p}"


def comparisons(folder: Path = REPORTS) -> dict[str, Any]:
    """Every comparison, by name, with the attacks that it leaves out because they were run on one side only."""
    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    result = {}
    for name, ((one, one_state, one_row), (other, other_state, other_row)) in COMPARISONS.items():
        left_out = run_on_one_only(reports[one], one_state, reports[other], other_state)
        sides = (
            withstood(reports[one], one_state, one_row, left_out),
            withstood(reports[other], other_state, other_row, left_out),
        )
        result[name] = {**compare(*sides), "left_out": list(left_out) if one_row == LOWEST else []}
    return result


def main(command_line: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser("python -m release.paired", description=(__doc__ or "").splitlines()[0]).parse_args(
        command_line
    )
    result = comparisons()
    RESULT.write_text(json.dumps({"command": "python -m release.paired", "comparisons": result}, indent=1) + "\n")
    for name, row in result.items():
        first, second = (f"{accuracy:.1%}" for accuracy in row["accuracy"])
        print(f"{name}: {first} and {second}, {in_words(row)}")
        if row["left_out"]:
            print(f"  without what was run on one of them only: {', '.join(row['left_out'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
