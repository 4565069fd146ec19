"""Compare networks picture by picture: the bundled one with its baselines, and those of the most robust recipe.

    python -m release.paired

It writes results/paired.json. Two networks' accuracies on the same pictures differ by what the one withstands and the
other does not. A sign test on these pictures tells chance from difference far better than two confidence intervals do.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from benchmarks.command_line import ROOT, command_parser, errors_told, write_result
from benchmarks.provenance import commit
from training.attacks.rows import STATES, RowId, State
from training.common.provenance import current_versions
from training.evaluate.report import Row, saved_rows

RESULTS = ROOT / "results"
RESULT = RESULTS / "paired.json"

Side = tuple[str, State]
"""A report under results/, and a state of its network."""


@dataclass(frozen=True)
class Comparison:
    """Two sides, and what of them is compared.

    Attributes:
        first: One side.
        second: The other side.
        counted: "all" compares the pictures that withstood every attack, "shared" those that withstood the attacks that
            both sides had, and "clean" the clean accuracy.
    """

    first: Side
    second: Side
    counted: Literal["all", "shared", "clean"] = "all"


_ON: Side = ("bundled/self-gradient", "block on")
_OFF: Side = ("bundled/self-gradient", "block off")
_EQUAL_TIME: Side = ("bundled/longer", "block off")
COMPARISONS = {
    "block on against off": Comparison(_ON, _OFF),
    "block on against the plain network of equal time": Comparison(_ON, _EQUAL_TIME),
    "the same, clean accuracy": Comparison(_ON, _EQUAL_TIME, counted="clean"),
    "block off against the plain network that it started from": Comparison(_OFF, ("bundled/start", "block off")),
}
"""Comparisons of the bundled network."""

_PLAIN: Side = ("gpu_winner/plain", "block off")
_WHOLE_ON: Side = ("gpu_winner/block", "block on")
_WHOLE_OFF: Side = ("gpu_winner/block", "block off")
_ALONE_ON: Side = ("gpu_winner/frozen", "block on")
_ALONE_OFF: Side = ("gpu_winner/frozen", "block off")
OF_THE_RECIPE = {
    "plain against the bundled plain network": Comparison(_PLAIN, _EQUAL_TIME),
    "plain against the bundled plain network, clean": Comparison(_PLAIN, _EQUAL_TIME, counted="clean"),
    "plain against the bundled network, block on": Comparison(_PLAIN, _ON),
    "trained whole, block on, against plain": Comparison(_WHOLE_ON, _PLAIN),
    "trained whole, on the attacks that both had": Comparison(_WHOLE_ON, _PLAIN, counted="shared"),
    "trained whole, block on against off": Comparison(_WHOLE_ON, _WHOLE_OFF),
    "trained whole, block on, against the bundled network, block on": Comparison(_WHOLE_ON, _ON),
    "block alone, block on, against plain": Comparison(_ALONE_ON, _PLAIN),
    "the same, on the attacks that both had": Comparison(_ALONE_ON, _PLAIN, counted="shared"),
    "block alone, block off, against plain": Comparison(_ALONE_OFF, _PLAIN),
    "block alone, block on against off": Comparison(_ALONE_ON, _ALONE_OFF),
    "block alone, block on, against the bundled network, block on": Comparison(_ALONE_ON, _ON),
    "the same, clean accuracy": Comparison(_ALONE_ON, _ON, counted="clean"),
    "block alone, block on, against the bundled plain network": Comparison(_ALONE_ON, _EQUAL_TIME),
}
"""Comparisons of the networks of the most robust recipe: plain, trained whole with a block, and the block alone."""

Rows = Mapping[RowId, Row]


def withstood(rows: Rows, state: State, counts: Callable[[RowId], bool]) -> list[bool]:
    """Return, picture by picture, whether it withstood every row of a state that counts."""
    chosen = [row.withstood for one, row in rows.items() if one.state == state and counts(one)]
    return [all(mark == "1" for mark in picture) for picture in zip(*chosen, strict=True)]


def run_on_one_only(
    one: Rows, one_state: State, other: Rows, other_state: State, shared_only: bool = False
) -> tuple[RowId, ...]:
    """Return the attacks that one side's lowest figure counts and the other's could count, but does not.

    They would make the comparison unfair. A side without its block on could not count an attack that needs a block.

    Args:
        one: The rows of one side's report.
        one_state: Its state.
        other: The rows of the other side's report.
        other_state: Its state.
        shared_only: Return every attack that one side alone had, whether the other could have it or not.

    Returns:
        The rows in a neutral state, by title.
    """
    all_of_them = shared_only or one_state == other_state == "block on"
    first = {anywhere(row) for row in one if row.state == one_state}
    second = {anywhere(row) for row in other if row.state == other_state}
    return tuple(
        sorted((row for row in first ^ second if all_of_them or not row.needs_block), key=lambda row: row.title)
    )


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


def comparisons(
    wanted: Mapping[str, Comparison] = MappingProxyType(COMPARISONS), folder: Path = RESULTS
) -> dict[str, Any]:
    """Return comparisons by name, with the attacks that each leaves out because they were run on one side only.

    Args:
        wanted: The comparisons.
        folder: The folder of the reports.
    """
    reports = {name: saved_rows(_report(name, folder)) for name in _reports(wanted)}
    return {name: _compare_reports(reports, comparison) for name, comparison in wanted.items()}


def _reports(wanted: Mapping[str, Comparison]) -> list[str]:
    return sorted({side[0] for one in wanted.values() for side in (one.first, one.second)})


def _report(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return report


def _compare_reports(reports: Mapping[str, Rows], comparison: Comparison) -> dict[str, Any]:
    (one, one_state), (other, other_state) = comparison.first, comparison.second
    left_out: tuple[RowId, ...] = ()
    if comparison.counted != "clean":
        shared_only = comparison.counted == "shared"
        left_out = run_on_one_only(reports[one], one_state, reports[other], other_state, shared_only)

    def counts(row: RowId) -> bool:
        return row.kind == "clean" if comparison.counted == "clean" else anywhere(row) not in left_out

    compared = compare(withstood(reports[one], one_state, counts), withstood(reports[other], other_state, counts))
    return {**compared, "left_out": [row.title for row in left_out]}


@errors_told
def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    command_parser("release.paired", __doc__).parse_args(command_line)
    results = {"comparisons": comparisons(), "of_the_recipe": comparisons(OF_THE_RECIPE)}
    settings = {name: _report(name)["setting"] for name in _reports({**COMPARISONS, **OF_THE_RECIPE})}
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
    write_result(RESULT, {**about, **results})
    for name, row in (one for result in results.values() for one in result.items()):
        first, second = (f"{accuracy:.1%}" for accuracy in row["accuracy"])
        print(f"{name}: {first} and {second}, {in_words(row)}")
        if row["left_out"]:
            print(f"  without what was run on one of them only: {', '.join(row['left_out'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
