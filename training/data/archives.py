"""Read CIFAR-10, CIFAR-100 and SVHN from the archives that their makers publish; torchvision verifies them."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from sgn_serve.common.error_text import one_line
from sgn_serve.pictures.files import SUFFIXES
from training.data.automatic_split import Split
from training.data.datasets import ARCHIVES, Archive
from training.data.picture_set import DatasetError, PictureSet

_LOOKED_AT = 100
"""Files of a data root's folders that are looked at, to tell whether they are pictures."""


def read_archive(dataset: str, root: Path, split: Split) -> PictureSet:
    """Read a split of one of ARCHIVES.

    Args:
        dataset: A key of ARCHIVES.
        root: Holds the unpacked folder, or the tarball as downloaded, which is unpacked elsewhere for the time of
            reading. The unpacked folder itself will do too.
        split: "train" or "test".

    Raises:
        DatasetError: A file is missing, or its checksum is not the published one.
    """
    archive = ARCHIVES[dataset]
    try:
        with _unpacked(archive, root) as folder:
            return _read(dataset, folder, split)
    except (RuntimeError, OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DatasetError(
            f"{root}: no complete {dataset} here ({one_line(error).split('. You can')[0]}); expected {archive.advice} "
            f"to there, or point --data-root at it{_if_folders_of_pictures(root)}"
        ) from None


def _if_folders_of_pictures(root: Path) -> str:
    """Return how to read folders of pictures, "" where there are none."""
    some = islice(root.glob("*/*"), _LOOKED_AT)
    return "; to read its folders of pictures, --dataset image-folder" if any(map(_is_picture, some)) else ""


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


@contextmanager
def _unpacked(archive: Archive, root: Path) -> Iterator[Path]:
    """Yield the folder to give to torchvision, unpacking the tarball where only that is there."""
    if archive.folder and root.name == archive.folder:
        yield root.parent
    elif not archive.tarball or (root / archive.folder).exists() or not (root / archive.tarball).exists():
        yield root
    else:
        # --data-root may be read-only, or read by several processes at once.
        with TemporaryDirectory(prefix="pictures-") as folder:
            with tarfile.open(root / archive.tarball) as file:
                file.extractall(folder, filter="data")
            yield Path(folder)


def _read(dataset: str, folder: Path, split: Split) -> PictureSet:
    # Imported here, because it takes seconds, which an image folder need not pay.
    from torchvision import datasets

    if dataset == "svhn":
        svhn = datasets.SVHN(str(folder), split=split)
        images = torch.from_numpy(np.ascontiguousarray(svhn.data))
        return PictureSet(images, torch.from_numpy(svhn.labels).long(), tuple(str(digit) for digit in range(10)))
    reader = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    cifar = reader(str(folder), train=split == "train")
    images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
    return PictureSet(images, torch.tensor(cifar.targets), tuple(cifar.classes))
