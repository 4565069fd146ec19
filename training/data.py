"""Labelled pictures as uint8 tensors, and the batched augmentation for them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Split = Literal["train", "test"]
DATASETS = ("cifar10", "cifar100", "svhn", "image-folder")

_ARCHIVES = {
    "cifar10": "the folder cifar-10-batches-py from cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
    "cifar100": "the folder cifar-100-python from cifar-100-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html)",
    "svhn": "train_32x32.mat and test_32x32.mat (http://ufldl.stanford.edu/housenumbers/)",
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"}


class DatasetError(ValueError):
    """Pictures that are missing or unreadable; the message names the place, what was expected, and the fix."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size with their labels.

    images:      (N, 3, H, W) uint8
    labels:      (N) int64, indices into class_names
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "PictureSet":
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of intensities in [0, 1], rounded to four digits."""
        histogram = torch.stack([torch.bincount(self.images[:, c].flatten(), minlength=256) for c in range(3)])
        weights = histogram.double() / histogram.sum(dim=1, keepdim=True)
        levels = torch.arange(256, dtype=torch.double) / 255
        mean = (weights * levels).sum(dim=1)
        std = ((weights * levels**2).sum(dim=1) - mean**2).sqrt()
        return tuple(round(value, 4) for value in mean.tolist()), tuple(round(value, 4) for value in std.tolist())


def load_pictures(dataset: str, root: Path, split: Split, image_size: int | None = None) -> PictureSet:
    """Reads a whole split into memory.

    dataset:    one of DATASETS; cifar10, cifar100 and svhn are torchvision's readers on the user's archives,
                image-folder is root/train/<class>/<picture> and root/test/<class>/<picture>
    image_size: side in pixels that an image folder's pictures are resized to; None asks that all have one size
    raises DatasetError where the files are missing or unreadable
    """
    if dataset == "image-folder":
        return _image_folder(root / split, image_size)
    if dataset not in _ARCHIVES:
        raise DatasetError(f"unknown data set {dataset!r}; known are: {', '.join(DATASETS)}")
    if image_size not in (None, 32):
        raise DatasetError(f"{dataset} has pictures of 32x32; --image-size is for image-folder")
    from torchvision import datasets

    try:
        if dataset == "svhn":
            svhn = datasets.SVHN(str(root), split=split)
            return PictureSet(
                torch.from_numpy(svhn.data), torch.from_numpy(svhn.labels).long(), tuple(str(d) for d in range(10))
            )
        reader = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
        cifar = reader(str(root), train=split == "train")
    except (RuntimeError, OSError) as error:
        raise DatasetError(
            f"{root}: no complete {dataset} here ({str(error).splitlines()[0]}); expected {_ARCHIVES[dataset]}: "
            "download and unpack it there, or point --data-root at it"
        ) from None
    images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
    return PictureSet(images, torch.tensor(cifar.targets), tuple(cifar.classes))


def _image_folder(folder: Path, image_size: int | None) -> PictureSet:
    expected = "expected <data-root>/train/<class>/<picture> and <data-root>/test/<class>/<picture>"
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; {expected}: point --data-root at the folder that holds them")
    class_names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    paths, labels = [], []
    for index, name in enumerate(class_names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in _SUFFIXES:
                paths.append(path)
                labels.append(index)
    if not paths:
        raise DatasetError(f"{folder}: no pictures ({', '.join(sorted(_SUFFIXES))}) in class folders; {expected}")
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda path: _read_picture(path, image_size), paths))
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise DatasetError(f"{folder}: pictures of {len(shapes)} sizes; resize them all with --image-size PIXELS")
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return PictureSet(images, torch.tensor(labels), class_names)


def _read_picture(path: Path, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
            if image_size is not None and picture.size != (image_size, image_size):
                picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetError(f"{path}: not a readable picture ({error}); remove or replace it") from None


def split_validation(pictures: PictureSet, count: int, seed: int) -> tuple[PictureSet, PictureSet]:
    """Holds out `count` pictures, the same number of each class (the first classes take the remainder).

    returns: the rest, and the held-out part, each in the original order of a seeded shuffle
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
    return pictures.subset(order[~held_out[order]]), pictures.subset(order[held_out[order]])


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


def batches(pictures: PictureSet, batch_size: int, *, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 images and labels, batch by batch; in training (shuffled) an incomplete last batch is left out."""
    count = len(pictures)
    order = (
        torch.randperm(count, device=pictures.labels.device)
        if shuffle
        else torch.arange(count, device=pictures.labels.device)
    )
    for first in range(0, count - batch_size + 1 if shuffle else count, batch_size):
        chosen = order[first : first + batch_size]
        yield pictures.images[chosen], pictures.labels[chosen]
