"""Names of the data sets that can be read, and where their files come from. Nothing here imports PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from training.common.given_paths import PathError

IMAGE_SIZE = 32
"""Side in pixels of the pictures in all archives."""


@dataclass(frozen=True)
class Archive:
    """The place of a data set on the disk.

    Attributes:
        folder: Folder that torchvision looks for in --data-root; "" where the files lie there themselves.
        tarball: Archive that the folder comes in; "" for none.
        advice: The file to download, and its source, for a message.
    """

    folder: str
    tarball: str
    advice: str


_CIFAR = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        f"cifar-10-python.tar.gz or its folder cifar-10-batches-py: download {_CIFAR}/cifar-10-python.tar.gz",
    ),
    "cifar100": Archive(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        f"cifar-100-python.tar.gz or its folder cifar-100-python: download {_CIFAR}/cifar-100-python.tar.gz",
    ),
    "svhn": Archive(
        "",
        "",
        "train_32x32.mat and test_32x32.mat: download both from http://ufldl.stanford.edu/housenumbers/",
    ),
}

IMAGE_FOLDER = "image-folder"
DATASETS = (*ARCHIVES, IMAGE_FOLDER)
"""Values of --dataset."""

LAYOUT = (
    "expected <data-root>/<class>/<picture>, or <data-root>/train/<class>/<picture> and "
    "<data-root>/test/<class>/<picture>"
)
"""Layout of an image folder, for messages."""

VALIDATION_AT_MOST = 2000
"""Pictures that are held out for validation of a large data set, where nobody says how many."""
VALIDATION_SHARE = 0.1
"""Share of a smaller one."""


def require_root(root: Path, dataset: str | None) -> None:
    """Check that the folder of a data set is there.

    Args:
        root: The folder.
        dataset: One of DATASETS; None where only the checkpoint says which.

    Raises:
        PathError: It is not; the message says what is expected in it.
    """
    if root.is_dir():
        return
    found = "a file, not a folder" if root.exists() else "no such folder"
    if dataset == IMAGE_FOLDER:
        raise PathError(f"{root}: {found}; {LAYOUT}: point --data-root at the folder that holds them")
    if dataset in ARCHIVES:
        raise PathError(f"{root}: {found}; expected {ARCHIVES[dataset].advice}, and point --data-root at its folder")
    raise PathError(f"{root}: {found}; point --data-root at the folder of the data set")
