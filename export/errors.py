"""What other libraries' errors say, in one line."""

import re


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def operator_in(error: BaseException) -> str | None:
    """The first of PyTorch's operators that an error names, such as aten::adaptive_max_pool2d, without its overload."""
    found = re.search(r"\baten(?:::|\.)(\w+)", str(error))
    return None if found is None else f"aten::{found[1]}"
