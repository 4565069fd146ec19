"""Why `sgn classify` and `sgn report` end without a result."""

from collections.abc import Iterator
from contextlib import contextmanager

from sgn_serve.common.error_text import system_errors_as
from sgn_serve.common.refusals import ServingError

_MISSING_PYARROW = 'pyarrow, which is not installed; install it with pip install "self-gradient-networks[classify]"'
_GOES_ON = "once that is mended, the same command with --resume goes on"
_NO_THREAD = "can't start new thread"
"""Python's message where the system has no more memory or threads."""


class ClassifyError(ServingError):
    """The inputs, the output or an unfinished run cannot be used. The message, one line, names the fix."""


def needs_pyarrow(what: str) -> ClassifyError:
    """Return the error for a missing pyarrow.

    Args:
        what: The file that needs it.
    """
    return ClassifyError(f"{what}: Parquet needs {_MISSING_PYARROW}, or use .csv or .jsonl")


def needs_pyarrow_for(address: str) -> ClassifyError:
    """Return the error for a missing pyarrow.

    Args:
        address: The object that needs it.
    """
    return ClassifyError(f"{address}: object stores need {_MISSING_PYARROW}")


@contextmanager
def system_told() -> Iterator[None]:
    """Raise ClassifyError where the system refuses a file, memory or a thread in the middle of a run."""
    with system_errors_as(ClassifyError, _GOES_ON):
        try:
            yield
        except MemoryError as error:
            raise ClassifyError(f"{str(error) or 'there is not enough memory'}; {_GOES_ON}") from error
        except RuntimeError as error:
            if _NO_THREAD not in str(error):
                raise
            raise ClassifyError(f"{error}; {_GOES_ON}") from error
