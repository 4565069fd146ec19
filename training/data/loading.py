"""Load the pictures that training and evaluation use, and choose or hold out some of them."""

from pathlib import Path

import torch
from torch import Tensor

from training.data.archives import read_archive
from training.data.automatic_split import Part, Split
from training.data.datasets import (
    ARCHIVES,
    DATASETS,
    IMAGE_FOLDER,
    IMAGE_SIZE,
    VALIDATION_AT_MOST,
    VALIDATION_SHARE,
)
from training.data.picture_folder import ChooseSize, read_picture_folder
from training.data.picture_set import DatasetError, PictureSet

_OF_A_SMALL_CLASS = 5
"""Pictures of a class for each one that is held out at most, where nobody says how many."""


def load_pictures(
    dataset: str,
    root: Path,
    split: Split | Part,
    image_size: int | ChooseSize | None = None,
    class_names: tuple[str, ...] | None = None,
    resize: str = "stretch",
) -> PictureSet:
    """Read a whole split.

    Args:
        dataset: One of DATASETS. cifar10, cifar100 and svhn are torchvision's readers on the user's archives;
            image-folder is root/train/<class>/<picture> and root/test/<class>/<picture>, or root/<class>/<picture>,
            which is divided.
        root: Folder of the data set.
        split: "train" or "test". A Part says besides how an undivided folder is divided.
        image_size: See read_picture_folder. Only for image folders.
        class_names: Those of a checkpoint that the pictures are for. Pictures of other classes are refused, where
            possible before they are read. None accepts any.
        resize: Treatment of an image folder's pictures of another aspect, see sgn_serve.pictures.resizing.

    Raises:
        DatasetError: The files are missing, unreadable or of other classes.
    """

    def check_classes(found: tuple[str, ...]) -> None:
        if class_names is not None and found != class_names:
            raise DatasetError(
                f"{root}: {dataset} with {_enumerate(found)}, but the checkpoint is for {_enumerate(class_names)}; "
                "give the --dataset and --data-root that it was trained on, or another checkpoint"
            )

    part = split if isinstance(split, Part) else Part(split)
    if dataset == IMAGE_FOLDER:
        return read_picture_folder(root, part, image_size, check_classes, resize)
    if dataset not in ARCHIVES:
        raise DatasetError(f"unknown data set {dataset!r}; known are: {', '.join(DATASETS)}")
    if not callable(image_size) and image_size not in (None, IMAGE_SIZE):
        raise DatasetError(f"{dataset} has pictures of {IMAGE_SIZE}x{IMAGE_SIZE}; --image-size is for image-folder")
    if resize != "stretch":
        raise DatasetError(f"--resize {resize} is for image-folder: the pictures of {dataset} have one size")
    pictures = read_archive(dataset, root, part.name)
    check_classes(pictures.class_names)
    return pictures


def _enumerate(class_names: tuple[str, ...]) -> str:
    shown = ", ".join(class_names[:3])
    return f"{len(class_names)} classes ({shown}{', ...' if len(class_names) > 3 else ''})"


def split_indices(pictures: PictureSet, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out `count` pictures, the same number of each class (the first classes take the remainder).

    A tenth of the pictures is held out without a count, at most VALIDATION_AT_MOST and at least one of each class. A
    class gives less than the others then, where that would be more than a fifth of it.

    Returns:
        Indices of the rest and of the held-out part, each in the order of a seeded shuffle.

    Raises:
        DatasetError: A class has too few pictures.
    """
    members = torch.bincount(pictures.labels.cpu(), minlength=len(pictures.class_names)).tolist()
    if count is None:
        # Exact: a tenth of 50,000 pictures and more is cut to VALIDATION_AT_MOST.
        total = max(len(members), min(VALIDATION_AT_MOST, round(VALIDATION_SHARE * len(pictures))))
        shares = _even_shares(total, [max(1, number // _OF_A_SMALL_CLASS) for number in members])
    else:
        shares = _even_shares(count, [count] * len(members))
    for name, number, share in zip(pictures.class_names, members, shares, strict=True):
        if number <= share:
            fix = "lower --validation-pictures" if count is not None else "give it more"
            raise DatasetError(
                f"class {name!r} has {number} pictures, too few to hold out {share} for validation and train on the "
                f"rest; {fix}"
            )
    return _split(pictures, shares, seed)


def _split(pictures: PictureSet, shares: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return what split_indices returns, for these numbers of each class."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=generator)
    held_out = torch.zeros(len(pictures), dtype=torch.bool)
    for index, share in enumerate(shares):
        members = order[pictures.labels[order] == index]
        held_out[members[:share]] = True
    return order[~held_out[order]], order[held_out[order]]


def _even_shares(count: int, most: list[int]) -> list[int]:
    """Divide a number among classes evenly. Larger classes give what smaller ones lack.

    Args:
        count: The number. Less is divided where the classes have no more.
        most: The most that each class gives.

    Returns:
        The share of each class. The first ones take the remainder.
    """
    shares = [0] * len(most)
    while left := min(count, sum(most)) - sum(shares):
        able = [index for index, share in enumerate(shares) if share < most[index]]
        for turn, index in enumerate(able):
            extra = left // len(able) + (turn < left % len(able))
            shares[index] = min(most[index], shares[index] + extra)
    return shares


def choose_pictures(pictures: PictureSet, count: int, seed: int, *, strict: bool = True) -> PictureSet:
    """Draw `count` pictures evenly over the classes, in a seeded order. All are taken where there are no more.

    The order is shuffled because checks and plots take the first pictures, which in an image folder are all of one
    class.

    Args:
        pictures: The pictures.
        count: How many.
        seed: Seed of the draw.
        strict: Whether each class must give the same number. Otherwise the larger ones give what smaller ones lack.

    Raises:
        DatasetError: A class has too few pictures for an even draw.
    """
    if count >= len(pictures):
        return pictures.subset(torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)))
    members = torch.bincount(pictures.labels, minlength=len(pictures.class_names)).tolist()
    shares = _even_shares(count, members)
    if strict and any(number <= share for number, share in zip(members, shares, strict=True)):
        raise DatasetError(
            f"--pictures {count}: a class has too few pictures for the same number of each; lower it, or take all "
            f"{len(pictures)}"
        )
    return pictures.subset(_split(pictures, shares, seed)[1])
