"""Write which of the pictures withstood what, one row for each file."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from training.common.files import write_atomically
from training.evaluate.report import Report

NAME = "pictures.csv"
"""The name of the table in a report's folder."""


def write_picture_table(path: Path, files: Sequence[Path], labels: Sequence[str], report: Report) -> None:
    """Write a CSV file with the columns path, label and robust, and one for each row of a report.

    A cell is 1 where the picture is still classified rightly and 0 where it is not. It is - where the picture was not
    attacked, because an earlier attack had already changed its answer. `robust` is 1 where it withstood everything that
    the headline counts.

    Args:
        path: The file to write.
        files: The pictures, in the report's order.
        labels: The true class of each.
        report: A report with at least one row.

    Raises:
        WriteError: The file cannot be written.
    """
    content = io.StringIO()
    lines = csv.writer(content, lineterminator="\n")
    lines.writerow(["path", "label", "robust", *(row.label for row in report.rows)])
    robust = ["1" if right else "0" for right in report.robust().tolist()]
    withstood = [row.withstood for row in report.rows.values()]
    # sgn classify writes paths in the same way: a byte that is not UTF-8 becomes \xNN.
    names = [[os.fsencode(text).decode("utf-8", "backslashreplace") for text in texts] for texts in (files, labels)]
    lines.writerows(zip(*names, robust, *withstood, strict=True))
    write_atomically(path, content.getvalue().encode())
