"""The pictures that training and evaluation use: reading, holding out, batching, augmentation."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.archives import ARCHIVES, IMAGE_SIZE, read_archive
from training.picture_folder import read_picture_folder
from training.picture_set import DatasetError, PictureSet, Split

__all__ = [
    "DATASETS",
    "DatasetError",
    "PictureSet",
    "Split",
    "augment",
    "batches",
    "load_pictures",
    "split_indices",
    "split_validation",
    "to_float",
]

DATASETS = (*ARCHIVES, "image-folder")


def load_pictures(
    dataset: str,
    root: Path,
    split: Split,
    image_size: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> PictureSet:
    """Reads a whole split into memory.

    dataset:     one of DATASETS; cifar10, cifar100 and svhn are torchvision's readers on the user's archives,
                 image-folder is root/train/<class>/<picture> and root/test/<class>/<picture>
    image_size:  side in pixels that an image folder's pictures are resized to; None asks that all have one size
    class_names: of a checkpoint that the pictures are for; others are refused, if possible before long reading
    raises DatasetError where the files are missing, unreadable or of other classes
    """

    def check_classes(found: tuple[str, ...]) -> None:
        if class_names is not None and found != class_names:
            raise DatasetError(
                f"{root}: {dataset} with {_enumerate(found)}, but the checkpoint is for {_enumerate(class_names)}; "
                "give the --dataset and --data-root that it was trained on, or another checkpoint"
            )

    if dataset == "image-folder":
        return read_picture_folder(root / split, image_size, check_classes)
    if dataset not in ARCHIVES:
        raise DatasetError(f"unknown data set {dataset!r}; known are: {', '.join(DATASETS)}")
    if image_size not in (None, IMAGE_SIZE):
        raise DatasetError(f"{dataset} has pictures of {IMAGE_SIZE}x{IMAGE_SIZE}; --image-size is for image-folder")
    pictures = read_archive(dataset, root, split)
    check_classes(pictures.class_names)
    return pictures


def _enumerate(class_names: tuple[str, ...]) -> str:
    shown = ", ".join(class_names[:3])
    return f"{len(class_names)} classes ({shown}{', ...' if len(class_names) > 3 else ''})"


def split_indices(pictures: PictureSet, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out `count` pictures, the same number of each class (the first classes take the remainder).

    returns: indices of the rest and of the held-out part, each in the order of a seeded shuffle
    raises DatasetError where a class has too few pictures
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
    """split_indices as copies of the pictures."""
    rest, held_out = split_indices(pictures, count, seed)
    return pictures.subset(rest), pictures.subset(held_out)


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 in [0, 1]."""
    return images.float() / 255


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Random crop out of a zero-padded picture and, if asked, a random mirror image, drawn per picture.

    images:  (N, 3, H, W) uint8
    returns: (N, 3, H, W) uint8; draws come from torch's global generator
    """
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(height, device=device)
    columns = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picture = torch.arange(count, device=device)[:, None, None]
    # Advanced indices around the channel slice put the channels last; move them back.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batches(pictures: PictureSet, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 images and labels of the pictures at `indices`, shuffled; an incomplete last batch is left out.

    indices: (M), on the pictures' device, where the shuffling and gathering is done too
    The order comes from torch's global generator.
    """
    order = indices[torch.randperm(len(indices), device=indices.device)]
    for first in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[first : first + batch_size]
        yield pictures.images[chosen], pictures.labels[chosen]
