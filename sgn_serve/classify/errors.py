"""Why `sgn classify` and `sgn report` end without a result."""

from sgn_serve.refusals import ServingError


class ClassifyError(ServingError):
    """The inputs, the output or an unfinished run cannot be used. The message, one line, names the fix."""


def needs_pyarrow(what: str) -> ClassifyError:
    """Return the error for a missing pyarrow.

    Args:
        what: The file that needs it.
    """
    return ClassifyError(
        f"{what}: Parquet needs pyarrow, which is not installed; install it with "
        'pip install "self-gradient-networks[classify]", or use .csv or .jsonl'
    )
