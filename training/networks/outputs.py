"""Find the logits in what a backbone returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.networks.errors import ArchitectureError


def logits_of(output: Any) -> Tensor:
    """Return the logits in a backbone's output.

    Args:
        output: The logits themselves, or a dict, a dataclass of the transformers library, a tuple or a list that holds
            them. They are the entry `logits`, or else the only tensor of two axes.

    Returns:
        The logits, (N, classes) for a backbone that is one.

    Raises:
        ArchitectureError: Not exactly one entry may be the logits.
    """
    if isinstance(output, Tensor):
        return output
    named = output.items() if isinstance(output, Mapping) else enumerate(output) if _is_sequence(output) else ()
    entries = {str(name): entry for name, entry in named if isinstance(entry, Tensor)}
    found = entries.get("logits", getattr(output, "logits", None))
    if isinstance(found, Tensor):
        return found
    candidates = [entry for entry in entries.values() if entry.dim() == 2]
    if len(candidates) == 1:
        return candidates[0]
    shapes = ", ".join(f"{name} {tuple(entry.shape)}" for name, entry in entries.items()) or "no tensor"
    raise ArchitectureError(
        f"the backbone returns a {type(output).__name__} of {shapes}, and which of them are the logits is not plain; "
        "return the logits (N, classes) alone, or a dict that names them 'logits'"
    )


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple)
