"""Describe how a program names the tensors of a network."""

import re
from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]
"""Pairs of a regular expression and its replacement, applied in order."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Per-channel mean and standard deviation of pictures in [0, 1]."""


@dataclass(frozen=True)
class Spelling:
    """The names that one kind of program gives to the tensors of one architecture.

    Attributes:
        title: Whose names they are.
        rules: Rules that turn its names into ours.
        reshapes: Whether it stores some tensors in another shape of as many values, such as a 1x1 convolution as a
            linear layer.
        batch_norm_epsilon: Epsilon of its batch norm, where that is not ours. None where it is.
        largest_side: Largest side in pixels of pictures for which it computes the same; None where that is any.
        normalisation: Normalisation of pictures in its own program. None where that differs from file to file.
    """

    title: str
    rules: Rules = ()
    reshapes: bool = False
    batch_norm_epsilon: float | None = None
    largest_side: int | None = None
    normalisation: Normalisation | None = None

    def renamed(self, name: str) -> str:
        """Return our name of a tensor."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name
