"""Load the pictures that training and evaluation use, and choose or hold out some of them."""

from pathlib import Path

import torch
from torch import Tensor

from training.data.archives import read_archive
from training.data.datasets import ARCHIVES, DATASETS, IMAGE_FOLDER, IMAGE_SIZE
from training.data.picture_folder import read_picture_folder
from training.data.picture_set import DatasetError, PictureSet, Split


def load_pictures(
    dataset: str,
    root: Path,
    split: Split,
    image_size: int | None = None,
    class_names: tuple[str, ...] | None = None,
    resize: str = "stretch",
) -> PictureSet:
    """Read a whole split into memory.

    Args:
        dataset: One of DATASETS. cifar10, cifar100 and svhn are torchvision's readers on the user's archives;
            image-folder is root/train/<class>/<picture> and root/test/<class>/<picture>.
        root: Folder of the data set.
        split: "train" or "test".
        image_size: Side in pixels that an image folder's pictures are resized to. None asks that all have one size.
        class_names: Those of a checkpoint that the pictures are for. Pictures of other classes are refused, where
            possible before they are read. None accepts any.
        resize: What happens to an image folder's pictures of another aspect, see sgn_serve.pictures.resizing.

    Raises:
        DatasetError: The files are missing, unreadable or of other classes.
    """

    def check_classes(found: tuple[str, ...]) -> None:
        if class_names is not None and found != class_names:
            raise DatasetError(
                f"{root}: {dataset} with {_enumerate(found)}, but the checkpoint is for {_enumerate(class_names)}; "
                "give the --dataset and --data-root that it was trained on, or another checkpoint"
            )

    if dataset == IMAGE_FOLDER:
        return read_picture_folder(root / split, image_size, check_classes, resize)
    if dataset not in ARCHIVES:
        raise DatasetError(f"unknown data set {dataset!r}; known are: {', '.join(DATASETS)}")
    if image_size not in (None, IMAGE_SIZE):
        raise DatasetError(f"{dataset} has pictures of {IMAGE_SIZE}x{IMAGE_SIZE}; --image-size is for image-folder")
    if resize != "stretch":
        raise DatasetError(f"--resize {resize} is for image-folder: the pictures of {dataset} have one size")
    pictures = read_archive(dataset, root, split)
    check_classes(pictures.class_names)
    return pictures


def _enumerate(class_names: tuple[str, ...]) -> str:
    shown = ", ".join(class_names[:3])
    return f"{len(class_names)} classes ({shown}{', ...' if len(class_names) > 3 else ''})"


def split_indices(pictures: PictureSet, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out `count` pictures, the same number of each class (the first classes take the remainder).

    Returns:
        Indices of the rest and of the held-out part, each in the order of a seeded shuffle.

    Raises:
        DatasetError: A class has too few pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=generator)
    classes = len(pictures.class_names)
    held_out = torch.zeros(len(pictures), dtype=torch.bool)
    for index in range(classes):
        share = count // classes + (index < count % classes)
        members = order[pictures.labels[order] == index]
        if len(members) <= share:
            raise DatasetError(
                f"class {pictures.class_names[index]!r} has {len(members)} pictures, too few to hold out {share} for "
                "validation and train on the rest; lower --validation-pictures"
            )
        held_out[members[:share]] = True
    return order[~held_out[order]], order[held_out[order]]


def split_validation(pictures: PictureSet, count: int, seed: int) -> tuple[PictureSet, PictureSet]:
    """Return copies of the rest and of the held-out part that split_indices finds."""
    rest, held_out = split_indices(pictures, count, seed)
    return pictures.subset(rest), pictures.subset(held_out)


def choose_pictures(pictures: PictureSet, count: int, seed: int) -> PictureSet:
    """Draw `count` pictures evenly over the classes, in a seeded order. All are taken where there are no more.

    The order is shuffled because checks and plots take the first pictures, which in an image folder are all of one
    class.

    Raises:
        DatasetError: A class has too few pictures for an even draw.
    """
    if count >= len(pictures):
        return pictures.subset(torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)))
    try:
        return split_validation(pictures, count, seed)[1]
    except DatasetError:
        raise DatasetError(
            f"--pictures {count}: a class has too few pictures for the same number of each; lower it, or take all "
            f"{len(pictures)}"
        ) from None
