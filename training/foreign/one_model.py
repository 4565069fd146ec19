"""Refuse weights of several models, and strays beside those of one, such as the weights of a loss."""

from collections.abc import Collection, Mapping

from torch import Tensor

from training.foreign.errors import WeightsError
from training.foreign.reading import PREFIXES

_SHARED = 0.9
"""Share of the tensors under one prefix from which on the others are strays, such as the weights of a loss."""

_TENSORS_OF_A_MODEL = 10
"""Fewest tensors that are taken for a whole model. Layers of a model may have the same names as each other."""


def check_one_model(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of several models, and strays beside those of one.

    Raises:
        WeightsError: There are such. The message names them.
    """
    parts: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if rest or tensor.numel() > 1:  # not a counter beside them
            parts.setdefault(first, set()).add(rest)
    names = [set(rest) for rest in parts.values()]
    if len(parts) > 1 and len(names[0]) >= _TENSORS_OF_A_MODEL and all(rest == names[0] for rest in names):
        models = " and ".join(map(repr, parts))
        raise WeightsError(
            f"these are weights of {len(parts)} models whose tensors have the same names, {models}; save those of one"
        )
    for prefix in PREFIXES:
        strays = [name for name in tensors if not name.startswith(prefix)]
        if 0 < len(strays) <= (1 - _SHARED) * len(tensors):
            raise WeightsError(
                f"all names but {_some(strays)} begin with {prefix!r}; save the model without it, and without what is "
                "no part of the model"
            )


def _some(names: Collection[str]) -> str:
    """Return the first few of some names as text."""
    shown = ", ".join(list(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
