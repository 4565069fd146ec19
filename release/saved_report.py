"""Read a report of training.evaluate that --report names, so that its rows need not be measured again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgn_serve.common.error_text import one_line
from training.attacks.rows import RowId
from training.common.errors import TrainingError
from training.evaluate.report import Row, saved_rows


class NoReportError(TrainingError):
    """A file that --report names is no report of training.evaluate; the message names the fix."""


@dataclass(frozen=True)
class SavedReport:
    """A report of training.evaluate.

    Attributes:
        setting: What its figures depend on.
        about: The command that wrote it, its machine and the like.
        rows: The result of each attack.
    """

    setting: Mapping[str, Any]
    about: Mapping[str, Any]
    rows: Mapping[RowId, Row]


def read_report(path: Path) -> SavedReport:
    """Return the report in a file.

    Raises:
        NoReportError: The file cannot be read or is no report.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_report(path, one_line(error)) from None
    if not isinstance(content, dict):
        raise _no_report(path, "it is no JSON object")
    missing = [part for part in ("setting", "about") if not isinstance(content.get(part), dict)]
    if missing:
        raise _no_report(path, f"it has no {' and no '.join(missing)}")
    try:
        rows = saved_rows(content)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # all that saved_rows names
        raise _no_report(path, f"its rows cannot be read, {type(error).__name__}: {one_line(error)}") from None
    return SavedReport(content["setting"], content["about"], rows)


def _no_report(path: Path, reason: str) -> NoReportError:
    return NoReportError(f"--report {path}: no report of training.evaluate ({reason}); leave it out")
