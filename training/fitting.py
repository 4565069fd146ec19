"""Fit a configuration to the pictures: their size in pixels and the size of a batch, where nobody says one."""

import statistics
from dataclasses import replace

from training.config import BATCH_SIZE, FEWEST_STEPS, TrainConfig
from training.data.loading import split_indices
from training.data.picture_set import PictureSet
from training.networks.backbones import usual_image_size

LARGEST_OWN_SIDE = 512
"""Longest side in pixels of pictures of one size that are not resized, where nobody says to what."""
_SIDES = (32, 64, 96, 128)
"""Sides that pictures of several sizes are resized to, where neither the user nor the backbone says to what."""


def with_image_size(config: TrainConfig, sizes: list[tuple[int, int]], start: int | None) -> tuple[TrainConfig, str]:
    """Return the configuration with the image size of a folder's pictures, and a line that says so.

    Args:
        config: The configuration. An image size in it stays, and the line is empty then.
        sizes: The (height, width) of the pictures, in pixels.
        start: Side of the pictures of the network that training starts from; None where it starts anew.

    Returns:
        An image size of None leaves pictures of one size as they are.
    """
    if config.image_size is not None:
        return config, ""
    usual = usual_image_size(config.arch)
    common = sizes[0] if len(set(sizes)) == 1 else None
    if common is not None and max(common) <= (usual or LARGEST_OWN_SIDE):
        return config, ""
    if start is not None:
        side, why = start, f"as for {config.start}"
    elif usual is not None:
        side, why = usual, f"which {config.arch} is made for"
    else:
        middle = statistics.median(min(size) for size in sizes)
        side = max((side for side in _SIDES if side <= middle), default=_SIDES[0])
        why = f"by the median of their shorter sides, {middle:g}, and at most {_SIDES[-1]}"
    found = f"{len(set(sizes)):,} sizes" if common is None else f"{common[1]}x{common[0]}"
    line = f"pictures of {found} are resized to {side}x{side}, {why}; --image-size PIXELS takes another size"
    return replace(config, image_size=side), line


def with_batch_size(config: TrainConfig, pictures: PictureSet, processes: int) -> tuple[TrainConfig, str]:
    """Return the configuration with the size of a batch, and a line where it is smaller than usual.

    An epoch of few pictures has FEWEST_STEPS steps then, of a power of two of pictures.

    Args:
        config: The configuration. A batch size in it stays, and the line is empty then.
        pictures: All pictures that are there for training and validation.
        processes: Number of processes that share a batch.

    Raises:
        DatasetError: A class has too few pictures to hold some out for validation.
    """
    if config.batch_size is not None:
        return config, ""
    count = len(split_indices(pictures, config.validation_pictures, config.seed)[0])
    size = min(BATCH_SIZE, 2 ** (max(1, count // FEWEST_STEPS).bit_length() - 1))
    size = size // processes * processes or processes
    line = f"{count} training pictures are few, so a batch has {size} of them; --batch-size takes another number"
    return replace(config, batch_size=size), line if size < BATCH_SIZE // processes * processes else ""
