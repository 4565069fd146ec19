"""Show how far the attacks of a report are: one bar for those that run one after the other, else one for each."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from tqdm import tqdm

from sgn_serve.common.error_text import visible
from training.evaluate.row_plan import PlannedRow


class AttackBars(Protocol):
    """Shows rows that are being measured."""

    def show(self, row: PlannedRow, *, restored: bool = False) -> None:
        """Show a row that has begun or moved on.

        Args:
            row: The row.
            restored: Whether an earlier process did it.
        """
        ...


class OneAfterTheOther:
    """Shows the row that is being measured in one bar.

    Args:
        bar: The bar.
        attacks: Number of all attacks.
    """

    def __init__(self, bar: tqdm, attacks: int):
        self._bar = bar
        self._attacks = attacks
        self._row: PlannedRow | None = None

    def show(self, row: PlannedRow, *, restored: bool = False) -> None:
        """Show a row that has begun or moved on. See AttackBars."""
        if row is not self._row:
            self._row = row
            self._bar.reset(row.most)
            self._bar.set_description(_title(row, self._attacks))
        self._bar.update(row.done - self._bar.n)
        if restored:
            self._bar.refresh()  # shows at once what an earlier process did, and not minutes later


class SideBySide(AbstractContextManager["SideBySide"]):
    """Shows a bar for each row that is being measured, and leaves a line for each one that is done.

    Args:
        make_bar: Makes a bar, and draws it, from its line of the screen, from 0, its title and its total.
        attacks: Number of all attacks.
    """

    def __init__(self, make_bar: Callable[[int, str, int], tqdm], attacks: int):
        self._make_bar = make_bar
        self._attacks = attacks
        self._bars: dict[int, tuple[int, tqdm]] = {}

    def show(self, row: PlannedRow, *, restored: bool = False) -> None:
        """Show a row that has begun or moved on. See AttackBars."""
        if row.number not in self._bars:
            line = min(set(range(len(self._bars) + 1)) - {line for line, _ in self._bars.values()})
            self._bars[row.number] = line, self._make_bar(line, _title(row, self._attacks), row.most)
        bar = self._bars[row.number][1]
        bar.total = row.most
        bar.update(row.done - bar.n)
        if restored:
            bar.refresh()
        if row.is_done:
            del self._bars[row.number]
            is_shown = not bar.disable  # closing it changes that
            bar.close()
            if is_shown:
                left = 100 * row.right.float().mean().item()
                print_above(
                    f"{_title(row, self._attacks)}: {row.done:,} pictures attacked, {left:.1f} % of all are left"
                )

    def __exit__(self, *_: object) -> None:
        """Close the bars."""
        for _line, bar in self._bars.values():
            bar.close()
        self._bars.clear()


def print_above(line: str) -> None:
    """Print a line on standard error above the bars."""
    tqdm.write(visible(line), file=sys.stderr)


def _title(row: PlannedRow, attacks: int) -> str:
    return f"{row.number + 1}/{attacks} {row.attack.id.label}"
