"""Log one row of figures for each epoch, as CSV for a spreadsheet and as TensorBoard events."""

import csv
import io
from pathlib import Path

from sgn_serve.common.error_text import one_line
from training.common import run_files
from training.common.errors import TrainingError
from training.common.files import WriteError, write_atomically


class LogError(TrainingError):
    """A run's log.csv cannot be taken over. The message says what to do."""


class EpochLog:
    """Append each epoch's figures to run_dir/log.csv and run_dir/tensorboard.

    Args:
        run_dir: Folder of the training run.
        first_epoch: The next epoch to log. Rows of this epoch and later ones are dropped: a run that was interrupted
            after logging them left them.

    Raises:
        LogError: There is a log.csv that is none, or that lacks an epoch after its first.
        WriteError: run_dir cannot be written to.
    """

    def __init__(self, run_dir: Path, first_epoch: int):
        # Imported here, because TensorBoard takes two seconds to import, which --help need not pay.
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / run_files.LOG
        self._rows = [row for row in self._read(first_epoch - 1) if int(row["epoch"]) < first_epoch]
        self._folder = run_dir / "tensorboard"
        try:
            self._events = SummaryWriter(str(self._folder), purge_step=first_epoch)
        except OSError as error:
            raise WriteError.of(self._folder, error) from None

    def _read(self, done: int) -> list[dict[str, str]]:
        """Return the rows. They may begin later than with epoch 1, where somebody removed the log of the epochs before.

        Args:
            done: The last epoch that there must be a row of.
        """
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            before = None
            for row in rows:
                epoch = int(row["epoch"])
                if None in row or None in row.values():
                    raise ValueError(f"the row of epoch {epoch} has another number of columns")
                if epoch < 1 or epoch != (before or epoch - 1) + 1:
                    raise ValueError(f"the row of epoch {epoch} comes after that of epoch {before or 0}")
                for value in row.values():
                    float(value)
                before = epoch
            if (before or 0) < done:
                raise ValueError(f"it lacks epoch {done}")
        except OSError as error:
            raise LogError(f"{self.path} cannot be read: {error.strerror}; move it away") from None
        except KeyError:
            raise self._damaged("its first line names no column epoch") from None
        except (ValueError, TypeError, csv.Error) as error:  # what files that are no such table lead to
            raise self._damaged(one_line(error)) from None
        return rows

    def _damaged(self, reason: str) -> LogError:
        return LogError(
            f"{self.path}: damaged, or not the log of this run ({reason}); restore it from a copy, or remove it to go "
            "on without the rows of the epochs before"
        )

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        """Write an epoch's row.

        Args:
            epoch: Counted from 1.
            figures: Its figures by column; the same columns in every epoch of a run.

        Raises:
            LogError: The rows of the epochs before have other columns.
            WriteError: The log cannot be written.
        """
        row = {"epoch": str(epoch)} | {name: f"{value:.6g}" for name, value in figures.items()}
        if self._rows and self._rows[-1].keys() != row.keys():
            raise self._damaged(f"it has other columns: {', '.join(sorted(self._rows[-1].keys() ^ row.keys()))}")
        self._rows.append(row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(row))
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
        """Close the TensorBoard events.

        Raises:
            WriteError: They cannot be written.
        """
        try:
            self._events.close()
        except OSError as error:
            raise WriteError.of(self._folder, error) from None
