"""Read a folder of pictures, one sub-folder for each class, into one tensor."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.common.devices import free_memory, gib
from training.data.picture_set import DatasetError, PictureSet

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"}
_EXPECTED = "expected <data-root>/train/<class>/<picture> and <data-root>/test/<class>/<picture>"
# Pictures handed to the threads at a time, so that a million of them do not wait in a queue.
_CHUNK = 1000
# More unreadable pictures than this mean a wrong folder or a failing disk, so reading stops.
_BROKEN_AT_MOST = 20


def read_picture_folder(
    folder: Path, image_size: int | None, check_classes: Callable[[tuple[str, ...]], None]
) -> PictureSet:
    """Read every picture in folder/<class>/, the classes in alphabetical order.

    Args:
        folder: Holds the folders of the classes.
        image_size: Side in pixels that pictures are resized to. None asks that all have one size.
        check_classes: Called with the class names before any picture is opened; may raise.

    Raises:
        DatasetError: Before any picture is decoded: there are none, a file is no picture, sizes differ, or the memory
            will not hold them. After decoding: some are broken further inside; the message names them.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; {_EXPECTED}: point --data-root at the folder that holds them")
    class_names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    paths, labels = [], []
    for index, name in enumerate(class_names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
                labels.append(index)
    if not paths:
        raise DatasetError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))}) in class folders; {_EXPECTED}")
    check_classes(class_names)
    return PictureSet(_read(folder, paths, image_size), torch.tensor(labels), class_names)


def _read(folder: Path, paths: list[Path], image_size: int | None) -> Tensor:
    sizes: list[tuple[int, int]] = [(0, 0)] * len(paths)

    def look(index: int) -> None:
        with Image.open(paths[index]) as file:
            sizes[index] = file.size

    _for_each(look, paths, "checking pictures")
    if image_size is None and len(set(sizes)) > 1:
        raise DatasetError(f"{folder}: pictures of {len(set(sizes))} sizes; resize them all with --image-size PIXELS")
    width, height = sizes[0] if image_size is None else (image_size, image_size)
    needed, free = len(paths) * 3 * height * width, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise DatasetError(
            f"{folder}: {len(paths):,} pictures of {width}x{height} take {gib(needed)} of memory, of which {gib(free)} "
            "is free; pass a smaller --image-size, or a --data-root with fewer pictures"
        )
    images = np.empty((len(paths), 3, height, width), np.uint8)

    def decode(index: int) -> None:
        with Image.open(paths[index]) as file:
            picture = file.convert("RGB")
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            images[index] = np.asarray(picture).transpose(2, 0, 1)

    _for_each(decode, paths, "reading pictures")
    return torch.from_numpy(images)


def _for_each(work: Callable[[int], None], paths: Sequence[Path], description: str) -> None:
    """Run work(index) for each picture on several threads, under a progress bar where it takes long.

    Raises:
        DatasetError: It failed for some pictures. The message names them.
    """
    broken: list[str] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except Exception as error:  # a broken picture makes Pillow raise OSError, SyntaxError, struct.error, ...
            broken.append(f"{paths[index]}: not a readable picture ({' '.join(str(error).split())})")

    # Without a delay the bar would flash up for the smallest folder.
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc=description, unit="picture", delay=2) as bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = range(first, min(first + _CHUNK, len(paths)))
            list(pool.map(guarded, chunk))
            bar.update(len(chunk))
            if len(broken) > _BROKEN_AT_MOST:
                break
    if broken:
        shown = "; ".join(sorted(broken)[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise DatasetError(f"{shown}{more}; remove or replace what is broken")
