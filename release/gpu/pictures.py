"""Unpack the archive and read its pictures, once for all stages. A rehearsal without an archive generates pictures."""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from release.gpu.stage import Run, Skip, main
from sgn_serve.pictures.folders import Skipped, find_pictures
from training.data.automatic_split import Split
from training.data.picture_folder import read_pictures
from training.data.picture_set import DatasetError, PictureSet

FILE = "pictures-{}.pt"
SPLITS: tuple[Split, ...] = ("train", "test")
MOST_PROCESSES = 16
"""Processes that read pictures at the same time, at most."""
GENERATED_CLASSES = tuple(f"class{index}" for index in range(10))
GENERATED_COLOURS = [(r, g, b) for r in (30, 225) for g in (30, 225) for b in (30, 225)] + [
    (128, 30, 225),
    (128, 225, 30),
]
GENERATED_PER_CLASS = {"train": 48, "test": 4}
GENERATED_SIDE = 8
"""Height and width of generated pictures, in pixels."""


def prepare(run: Run) -> None:
    """Save both splits for the stages that train and attack, and record how many pictures they hold.

    Raises:
        DatasetError: The archive holds no image folder, or a picture is broken.
        CalledProcessError: tar cannot unpack the archive.
    """
    began = time.monotonic()
    data = run.settings.data
    sets = read_archive(Path(data), run.work / "data") if data else {split: generated(split) for split in SPLITS}
    for split, pictures in sets.items():
        torch.save(
            {"images": pictures.images, "labels": pictures.labels, "class_names": list(pictures.class_names)},
            run.work / FILE.format(split),
        )
    counts = {split: len(pictures) for split, pictures in sets.items()}
    seconds = round(time.monotonic() - began, 1)
    says = f"{counts['train']} and {counts['test']} pictures in {seconds} s"
    run.record(says if data else f"{says}, generated", pictures=counts, seconds=seconds)


def load(run: Run, split: Split) -> PictureSet:
    """Return the pictures that `prepare` saved.

    Raises:
        Skip: It saved none.
    """
    path = run.work / FILE.format(split)
    if not path.is_file():
        raise Skip("there are no pictures: see stage pictures")
    saved = torch.load(path, weights_only=True)
    return PictureSet(saved["images"], saved["labels"], tuple(saved["class_names"]))


def read_archive(archive: Path, folder: Path) -> dict[Split, PictureSet]:
    """Unpack an archive of an image folder (train/<class>/<picture>, test/<class>/<picture>) and read it.

    Each class is read in its own process, because decoding holds Python's lock most of the time.

    Args:
        archive: A tar file, uncompressed or .xz, .gz or .bz2.
        folder: Where to unpack it. It need not exist.

    Returns:
        Both splits, as training.data.loading.load_pictures reads them.

    Raises:
        DatasetError: It is no image folder, or a picture is broken.
        CalledProcessError: tar cannot unpack it.
    """
    unpack(archive, folder / "all")
    classes = {split: _class_folders(folder / "all" / split) for split in SPLITS}
    parts = [part for folders in classes.values() for part in folders]
    workers = min(MOST_PROCESSES, os.cpu_count() or 1, len(parts))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        read = dict(zip(parts, pool.map(_read, parts), strict=True))
    return {split: _joined([read[part] for part in classes[split]]) for split in SPLITS}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar file into a new folder.

    Python decompresses it, so no other program is needed. The program tar unpacks it, because Python takes ten times as
    long for many small files.

    Raises:
        CalledProcessError: tar cannot unpack it.
    """
    folder.mkdir(parents=True)
    readers: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
    opened = readers.get(archive.suffix, open)
    command = ["tar", "-x", "--no-same-owner", "-C", str(folder)]
    with opened(archive, "rb") as source, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # tar has ended, and its exit status tells why
            shutil.copyfileobj(source, process.stdin)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        status = process.wait()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)


def _class_folders(folder: Path) -> list[Path]:
    """Return the folders of the classes, in the classes' order."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _read(folder: Path) -> tuple[str, NDArray[np.uint8]]:
    """Return a class's name and its pictures, (N, 3, H, W).

    The pictures are an array, because sending tensors to another process needs shared memory.
    """
    found = find_pictures(folder, Skipped())
    if not found:
        raise DatasetError(f"{folder}: no pictures in it; leave the class out, or give it some")
    return folder.name, read_pictures(folder, found, None).numpy()


def _joined(classes: list[tuple[str, NDArray[np.uint8]]]) -> PictureSet:
    names = tuple(name for name, _ in classes)
    labels = np.repeat(np.arange(len(classes)), [len(images) for _, images in classes])
    images = np.concatenate([images for _, images in classes])
    return PictureSet(torch.from_numpy(images), torch.from_numpy(labels), names)


def generated(split: Split) -> PictureSet:
    """Return pictures of ten classes that differ in colour, with noise. The splits have different noise."""
    generator = torch.Generator().manual_seed(SPLITS.index(split))
    count = GENERATED_PER_CLASS[split] * len(GENERATED_CLASSES)
    labels = torch.arange(count) % len(GENERATED_CLASSES)
    colours = torch.tensor(GENERATED_COLOURS)
    noise = torch.randint(-30, 31, (count, 3, GENERATED_SIDE, GENERATED_SIDE), generator=generator)
    images = (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return PictureSet(images, labels, GENERATED_CLASSES)


if __name__ == "__main__":
    sys.exit(main(prepare))
