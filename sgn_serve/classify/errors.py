"""Why `sgn classify` and `sgn report` end without a result."""

from sgn_serve.refusals import ServingError

_MISSING_PYARROW = 'pyarrow, which is not installed; install it with pip install "self-gradient-networks[classify]"'


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
