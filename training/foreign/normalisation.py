"""Find out what the program of foreign weights normalises pictures with."""

import math
from typing import Any

from training.foreign.reading import ForeignWeights
from training.foreign.spelling import Normalisation, Spelling
from training.networks.names import TIMM_PREFIX

NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of a network that takes pictures as they are, in [0, 1]."""


def known_normalisation(weights: ForeignWeights, arch: str, spelling: Spelling) -> tuple[Normalisation, str] | None:
    """Return mean and standard deviation with where they are from, None where nothing says them.

    A normalisation layer in the file comes first, then what the file's own program is known for, then timm's
    configuration of the network.

    Args:
        weights: The file's contents.
        arch: The architecture.
        spelling: Whose names the file has.
    """
    if weights.mean is not None and weights.std is not None:
        return (weights.mean, weights.std), "the file's own"
    if spelling.normalisation is not None:
        return spelling.normalisation, spelling.title
    config = timm_config(arch)
    if "mean" not in config or "std" not in config:
        return None
    mean, std = (tuple(float(value) for value in config[name]) for name in ("mean", "std"))
    return (mean, std), "timm's for this network"


def is_possible(normalisation: Normalisation) -> bool:
    """Return whether all numbers are finite, and each standard deviation is above 0."""
    mean, std = normalisation
    return all(map(math.isfinite, (*mean, *std))) and min(std) > 0


def in_words(normalisation: Normalisation) -> str:
    """Return mean and standard deviation as text, such as "0.5,0.5,0.5 and 0.25,0.25,0.25"."""
    return " and ".join(",".join(f"{value:.4g}" for value in values) for values in normalisation)


def timm_config(arch: str) -> dict[str, Any]:
    """Return timm's configuration of a network, empty where it is none of timm's or timm is missing."""
    if not arch.startswith(TIMM_PREFIX):
        return {}
    try:
        import timm
    except ModuleNotFoundError:
        return {}  # building the network says so
    described = timm.get_pretrained_cfg(arch.removeprefix(TIMM_PREFIX), allow_unregistered=True)
    return {} if described is None else dict(described.to_dict())  # type: ignore[no-untyped-call]
