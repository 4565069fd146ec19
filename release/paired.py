"""Compare the bundled network with its baselines picture by picture, from the reports in results/bundled.

    python -m release.paired

It writes results/paired.json. Two networks' accuracies on the same pictures differ by what the one withstands and the
other does not. A sign test on these pictures tells chance from difference far better than two confidence intervals do.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.provenance import commit
from training.attacks.rows import STATES, RowId, State
from training.common.provenance import current_versions
from training.evaluate.report import Row, saved_rows

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "results" / "bundled"
RESULT = ROOT / "results" / "paired.json"

Side = tuple[str, State]
"""A report, and a state of its network."""


@dataclass(frozen=True)
class Comparison:
    """Two sides, and what of them is compared.

    Attributes:
        first: One side.
        second: The other side.
        clean_only: Whether clean accuracy is compared; otherwise the pictures that withstood every attack are.
    """

    first: Side
    second: Side
    clean_only: bool = False


COMPARISONS = {
    "block on against off": Comparison(("self-gradient", "block on"), ("self-gradient", "block off")),
    "block on against the plain network of equal time": Comparison(
        ("self-gradient", "block on"), ("longer", "block off")
    ),
    "the same, clean accuracy": Comparison(("self-gradient", "block on"), ("longer", "block off"), clean_only=True),
    "block off against the plain network that it started from": Comparison(
        ("self-gradient", "block off"), ("start", "block off")
    ),
}

Rows = Mapping[RowId, Row]


def withstood(rows: Rows, state: State, counts: Callable[[RowId], bool]) -> list[bool]:
    """Return, picture by picture, whether it withstood every row of a state that counts."""
    chosen = [row.withstood for one, row in rows.items() if one.state == state and counts(one)]
    return [all(mark == "1" for mark in picture) for picture in zip(*chosen, strict=True)]


def run_on_one_only(one: Rows, one_state: State, other: Rows, other_state: State) -> tuple[RowId, ...]:
    """Return the attacks that one side's lowest figure counts and the other's could count, but does not.

    They would make the comparison unfair. The rows are returned in a neutral state, by title.
    """
    first = {anywhere(row) for row in one if row.state == one_state}
    second = {anywhere(row) for row in other if row.state == other_state}
    return tuple(sorted((row for row in first ^ second if not row.needs_block), key=lambda row: row.title))


def anywhere(row: RowId) -> RowId:
    """Return the same row in a neutral state, so that rows of different states can be compared."""
    return replace(row, state=STATES[0])


def sign_test(won: int, lost: int) -> float:
    """Return the exact two-sided probability of so uneven a split if each way was as likely as the other."""
    from scipy.stats import binomtest  # slow to import, and most commands that use this module need no sign test

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def compare(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """Return both accuracies and the sign test of their difference.

    `won` counts the pictures that the first withstood and the second did not, `lost` those the other way round.
    """
    won = sum(a and not b for a, b in zip(first, second, strict=True))
    lost = sum(b and not a for a, b in zip(first, second, strict=True))
    return {
        "accuracy": [sum(first) / len(first), sum(second) / len(second)],
        "won": won,
        "lost": lost,
        "p": round(sign_test(won, lost), 4),
    }


def in_words(row: Mapping[str, Any]) -> str:
    """Return a comparison as texts quote it."""
    p = f"p = {row['p']:.2f}" if row["p"] >= 0.01 else "p < 0.01"
    return f"{row['won']} won, {row['lost']} lost, {p}"


def comparisons(folder: Path = REPORTS) -> dict[str, Any]:
    """Return every comparison by name, with the attacks that it leaves out because they were run on one side only."""
    reports = {path.stem: saved_rows(json.loads(path.read_text())) for path in folder.glob("*.json")}
    return {name: _compare_reports(reports, comparison) for name, comparison in COMPARISONS.items()}


def _compare_reports(reports: Mapping[str, Rows], comparison: Comparison) -> dict[str, Any]:
    (one, one_state), (other, other_state) = comparison.first, comparison.second
    left_out: tuple[RowId, ...] = ()
    if not comparison.clean_only:
        left_out = run_on_one_only(reports[one], one_state, reports[other], other_state)

    def counts(row: RowId) -> bool:
        return row.kind == "clean" if comparison.clean_only else anywhere(row) not in left_out

    compared = compare(withstood(reports[one], one_state, counts), withstood(reports[other], other_state, counts))
    return {**compared, "left_out": [row.title for row in left_out]}


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    argparse.ArgumentParser("python -m release.paired", description=(__doc__ or "").splitlines()[0]).parse_args(
        command_line
    )
    result = comparisons()
    settings = {path.stem: json.loads(path.read_text())["setting"] for path in sorted(REPORTS.glob("*.json"))}
    about = {
        "command": "python -m release.paired",
        "versions": current_versions(),
        "git_commit": commit(),
        # All reports are on the same pictures: comparing them picture by picture rests on that.
        "data": {
            name: [setting["data"], setting["pictures"], setting["pictures_sha256"]]
            for name, setting in settings.items()
        },
    }
    RESULT.write_text(json.dumps({**about, "comparisons": result}, indent=1) + "\n")
    for name, row in result.items():
        first, second = (f"{accuracy:.1%}" for accuracy in row["accuracy"])
        print(f"{name}: {first} and {second}, {in_words(row)}")
        if row["left_out"]:
            print(f"  without what was run on one of them only: {', '.join(row['left_out'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
