"""The names of a graph's outputs, stored beside it in formats whose outputs have none."""

from collections.abc import Sequence

from export.check.verify import UnusableGraphError

OUTPUT_NAMES_KEY = "output_names"
"""Key of a TorchScript file's and an AOTInductor package's metadata: the outputs' names, in order, with commas."""


def joined(names: Sequence[str]) -> str:
    """Return the text that is stored under OUTPUT_NAMES_KEY."""
    return ",".join(names)


def require_outputs(found: Sequence[str], expected: Sequence[str]) -> None:
    """Check that a graph has the expected outputs, in order.

    Raises:
        UnusableGraphError: The outputs are others.
    """
    if tuple(found) != tuple(expected):
        raise UnusableGraphError(f"the graph's outputs are {', '.join(found)}, expected {', '.join(expected)}")
