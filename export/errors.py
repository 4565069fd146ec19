"""Errors that a user of export/ can put right, and the operator that another library's error names."""

import re


class ExportError(Exception):
    """Base of what a user can put right: a checkpoint, a path, a compiler, an operator or a precision.

    The message is one line that names what is wrong and the fix. The command line prints it after "error: " and ends
    with `exit_status`; every other exception is a programming error and keeps its traceback.

    Attributes:
        exit_status: 2 for wrong arguments, files or tools; 1 for a graph that was made and is not good enough.
    """

    exit_status = 2

    def details(self) -> str:
        """Return lines of measurements to print before the error line; empty where there are none."""
        return ""


class CaptureError(ExportError):
    """A network that cannot be written as one graph; the message names the layer, the operator and what can be done.

    Attributes:
        operator: The operator that a format lacks, such as aten::adaptive_max_pool2d; None where it is not one.
    """

    def __init__(self, message: str, operator: str | None = None):
        """Make an error with the operator that is at fault, if it is known."""
        super().__init__(message)
        self.operator = operator


def operator_in(error: BaseException) -> str | None:
    """Return the first PyTorch operator that an error names, without its overload: aten::adaptive_max_pool2d."""
    found = re.search(r"\baten(?:::|\.)(\w+)", str(error))
    return None if found is None else f"aten::{found[1]}"
