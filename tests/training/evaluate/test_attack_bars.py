"""The bars of attacks that run side by side, as a terminal shows them."""

import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import torch

from training.evaluate.attack_bars import SideBySide
from training.evaluate.measuring import BatchResult
from training.evaluate.row_plan import PlannedRow
from training.evaluate.run import Evaluation

PICTURES = 24


class Terminal(StringIO):
    """Keeps what is drawn."""

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        """Return what was drawn since the last time."""
        drawn = self.getvalue()
        self.seek(0)
        self.truncate()
        return drawn


def planned(number: int, name: str) -> PlannedRow:
    attack: Any = SimpleNamespace(id=SimpleNamespace(label=f"block on: {name}"))
    return PlannedRow(number, attack, torch.ones(PICTURES, dtype=torch.bool), [], 12)


def attack_next(row: PlannedRow, marks: str) -> None:
    """Attack the next batch of a row."""
    batch = row.next_batch()
    assert batch is not None
    row.take(batch, BatchResult(marks, 1.0, 0))


def test_each_attack_that_runs_has_a_line_with_its_name_its_count_and_the_time_left(monkeypatch):
    terminal, now = Terminal(), 1000.0
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("COLUMNS", "120"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    evaluation: Any = SimpleNamespace(progress=True)
    pgd, apgd = planned(0, "PGD-10"), planned(2, "APGD-CE")
    with SideBySide(lambda *given: Evaluation._bar(evaluation, *given), 3) as bars:
        bars.show(pgd)
        bars.show(apgd)
        begun = terminal.take()
        assert "\r1/3 block on: PGD-10:   0%|" in begun, "it is named before its first batch is done"
        assert "\n\r3/3 block on: APGD-CE:   0%|" in begun, "on a line of its own"
        assert begun.count("| 0/24 [00:00<?, ?picture/s]") == 2

        for row, marks, seconds, place, shown in (
            (pgd, "110000000000", 10, "\r1/3 block on: PGD-10", "[00:10<00:10,  1.20picture/s]"),
            (apgd, "000000000000", 110, "\n\r3/3 block on: APGD-CE", "[02:00<02:00, 10.00s/picture]"),
        ):
            now += seconds
            attack_next(row, marks)
            bars.show(row)
            drawn = terminal.take()
            assert f"{place}:  50%|" in drawn
            assert f"| 12/24 {shown}" in drawn

        attack_next(pgd, "100000000000")
        bars.show(pgd)
        assert "1/3 block on: PGD-10: 24 pictures attacked, 12.5 % of all are left\n" in terminal.take()
        fgsm = planned(1, "FGSM")
        bars.show(fgsm)
        assert "\r2/3 block on: FGSM:   0%|" in terminal.take()
