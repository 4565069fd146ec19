"""The options of `python -m training.convert`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The options of the command line; build_parser says what each is for."""

    weights: Path
    classes: str
    out: Path
    arch: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    image_size: int | None
    activation: str
    epsilon: float
    dataset_name: str
    add_block: bool
