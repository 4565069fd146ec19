"""Small archives in the very formats of CIFAR-10, CIFAR-100 and SVHN, with classes that are easy to tell apart."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision import datasets


def _pictures(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, 3, 32, 32) uint8, each class of its own colour under noise."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (classes, 3))
    noise = rng.integers(-40, 40, (len(labels), 3, 32, 32))
    return (colours[labels][:, :, None, None] + noise).clip(0, 255).astype(np.uint8)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int, per_class: int) -> np.ndarray:
    """The folder of the unpacked archive, known to torchvision by its checksums; returns the test pictures.

    per_class: pictures in each file, of which CIFAR-10 has five for training and CIFAR-100 one
    """
    hundred = classes == 100
    reader = datasets.CIFAR100 if hundred else datasets.CIFAR10
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    labels = np.arange(classes * per_class) % classes
    pictures = _pictures(labels, classes)

    def write(name: str, content: dict) -> None:
        with (folder / name).open("wb") as file:
            pickle.dump(content, file, protocol=2)

    for name, _ in reader.train_list + reader.test_list:
        key = "fine_labels" if hundred else "labels"
        write(name, {"data": pictures.reshape(len(labels), -1), key: labels.tolist()})
    write(reader.meta["filename"], {reader.meta["key"]: [f"class{index}" for index in range(classes)]})
    # Torchvision's check runs; only what it compares with is this archive's. CIFAR100 inherits from CIFAR10.
    for attribute in ("train_list", "test_list"):
        listed = [[name, _md5(folder / name)] for name, _ in getattr(reader, attribute)]
        monkeypatch.setattr(reader, attribute, listed)
    name = reader.meta["filename"]
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": _md5(folder / name)})
    return pictures


def pack_cifar(root: Path) -> None:
    """Leaves only the archive itself, as downloaded."""
    (folder,) = root.iterdir()
    hundred = folder.name == datasets.CIFAR100.base_folder
    with tarfile.open(root / f"cifar-{100 if hundred else 10}-python.tar.gz", "w:gz") as file:
        file.add(folder, folder.name)
    for file_path in folder.iterdir():
        file_path.unlink()
    folder.rmdir()


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch, per_class: int) -> np.ndarray:
    """Both .mat files, known to torchvision by their checksums; returns the pictures, the digits 0 to 9 in turn."""
    root.mkdir(parents=True, exist_ok=True)
    labels = np.arange(10 * per_class) % 10
    pictures = _pictures(labels, 10)
    listed = {}
    for split in ("train", "test"):
        url, name, _ = datasets.SVHN.split_list[split]
        # The files call zero ten, and put the pictures' index last.
        content = {
            "X": pictures.transpose(2, 3, 1, 0),
            "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
        }
        scipy.io.savemat(root / name, content)
        listed[split] = [url, name, _md5(root / name)]
    monkeypatch.setattr(datasets.SVHN, "split_list", datasets.SVHN.split_list | listed)
    return pictures
