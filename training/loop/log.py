"""The training log: one row an epoch, as CSV for a spreadsheet and as TensorBoard events."""

import csv
import io
from pathlib import Path

from training.common.files import WriteError, write_atomically


class RunLog:
    """Appends an epoch's figures to run_dir/log.csv and run_dir/tensorboard.

    first_epoch: rows of this epoch and later ones, left by a run that was interrupted after logging them, are dropped
    raises WriteError where run_dir cannot be written to
    """

    def __init__(self, run_dir: Path, first_epoch: int):
        # TensorBoard takes two seconds to import, which --help need not pay.
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "log.csv"
        self._rows = [row for row in self._read() if int(row["epoch"]) < first_epoch]
        self._folder = run_dir / "tensorboard"
        try:
            self._events = SummaryWriter(str(self._folder), purge_step=first_epoch)
        except OSError as error:
            raise WriteError.of(self._folder, error) from None

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        """epoch: counted from 1; figures by column, where rows that an older version wrote may lack some

        raises WriteError
        """
        self._rows.append({"epoch": str(epoch)} | {name: f"{value:.6g}" for name, value in figures.items()})
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, text.getvalue().encode())
        try:
            for name, value in figures.items():
                self._events.add_scalar(name, value, epoch)
            self._events.flush()
        except OSError as error:
            raise WriteError.of(self._folder, error) from None

    def close(self) -> None:
        """raises WriteError"""
        try:
            self._events.close()
        except OSError as error:
            raise WriteError.of(self._folder, error) from None
