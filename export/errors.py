"""Errors that a user of export/ can put right, and what other libraries' errors name."""

import re


class ExportError(Exception):
    """Base of what a user can put right: a checkpoint, a path, a compiler, an operator or a precision.

    The message is one line that names what is wrong and the fix. The command line prints it after "error: " and ends
    with `exit_status`; every other exception is a programming error and keeps its traceback.
    """

    exit_status = 2


def operator_in(error: BaseException) -> str | None:
    """The first of PyTorch's operators that an error names, such as aten::adaptive_max_pool2d, without its overload."""
    found = re.search(r"\baten(?:::|\.)(\w+)", str(error))
    return None if found is None else f"aten::{found[1]}"
