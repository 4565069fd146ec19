"""The training log: one row an epoch, as CSV for a spreadsheet and as TensorBoard events."""

import csv
import os
from pathlib import Path


class RunLog:
    """Appends an epoch's figures to run_dir/log.csv and run_dir/tensorboard.

    first_epoch: rows of this epoch and later ones, left by a run that was interrupted after logging them, are dropped
    """

    def __init__(self, run_dir: Path, first_epoch: int):
        # TensorBoard takes two seconds to import, which --help need not pay.
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "log.csv"
        self._rows = [row for row in self._read() if int(row["epoch"]) < first_epoch]
        self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_epoch)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        """epoch: counted from 1; figures: the same names every epoch"""
        self._rows.append({"epoch": str(epoch)} | {name: f"{value:.6g}" for name, value in figures.items()})
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(partial, self.path)
        for name, value in figures.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()

    def close(self) -> None:
        self._events.close()
