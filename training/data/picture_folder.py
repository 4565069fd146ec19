"""Read a folder of pictures, one sub-folder for each class, into one tensor."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sgn_serve.common.error_text import one_line, say, system_errors_as
from sgn_serve.pictures.files import SUFFIXES, read_rgb, read_size
from sgn_serve.pictures.folders import Reason, Skipped, find_pictures, skipped_folder
from training.common.devices import free_memory, gib
from training.data.automatic_split import AutomaticSplit, Part, Split
from training.data.datasets import LAYOUT
from training.data.folder_notes import by_content, in_several_classes
from training.data.mapped_file import FileSpaceError, in_mapped_file
from training.data.picture_set import DatasetError, PictureSet
from training.data.random_crops import WholePictures, aspects_of, kept_side
from training.parallel.distributed import first_on_machine

# Pictures handed to the threads at a time, so that a million of them do not wait in a queue.
_CHUNK = 1000
# More unreadable pictures than this mean a wrong folder or a failing disk, so reading stops.
_BROKEN_AT_MOST = 20
_FEWEST = 3
"""Different pictures of a class that a folder can be divided with."""
_IN_MEMORY = 0.5
"""Largest share of the free memory that pictures may take. Training needs memory too."""

ChooseSize = Callable[[list[tuple[int, int]]], int | None]
"""Returns the side in pixels for pictures of these (height, width); None keeps the size that all have."""


@system_errors_as(DatasetError, "make it readable, or point --data-root at another folder")
def read_picture_folder(
    root: Path,
    part: Part,
    image_size: int | ChooseSize | None,
    check_classes: Callable[[tuple[str, ...]], None],
    resize: str = "stretch",
) -> PictureSet:
    """Read a part of the pictures in the class folders and the folders in them, the classes in alphabetical order.

    They are read as they are served. What is passed over is counted and named in one line on standard error.

    Args:
        root: Holds train/ and test/, or the folders of the classes themselves, which are divided then.
        part: Which pictures are read.
        image_size: Side in pixels that pictures are resized to, or a function that chooses it. None asks that all have
            one size.
        check_classes: Called with the class names before any picture is opened; may raise.
        resize: Treatment of a picture of another aspect, see sgn_serve.pictures.resizing.

    Raises:
        DatasetError: Before any picture is decoded: there are none, or none of some class, or only one class. Or a file
            is no picture, sizes differ, or neither memory nor disk will hold them. After decoding: some are broken
            further inside; the message names them.
    """
    folder, undivided = part_folder(root, part.name), is_undivided(root)
    if not folder.is_dir():
        raise DatasetError(f"{_absent(root, folder)}; {LAYOUT}: point --data-root at the folder that holds them")
    if undivided and part.of is None:
        if part.name != "test":
            raise DatasetError(
                f"{root}: neither train/ nor test/ is in it, and the network was not trained on such a folder; put the "
                f"pictures into {root / part.name}/<class>/"
            )
        if first_on_machine():
            note = "so all of its pictures are judged: the network should have seen none of them in training"
            say(f"{root}: neither train/ nor test/ is in it, {note}")
    skipped = Skipped()
    class_names = _class_names(folder, skipped)
    found = [find_pictures(folder / name, skipped) for name in class_names]
    if str(skipped) and first_on_machine():
        say(f"{folder}: skipped {skipped}")
    if undivided:
        _check_not_nested(root, class_names)
    _check_found(folder, dict(zip(class_names, found, strict=True)))
    check_classes(class_names)
    split = None
    if undivided and part.of is not None:
        found, split = _divide(root, dict(zip(class_names, found, strict=True)), part.of, part.name)
    paths = [path for pictures in found for path in pictures]
    labels = [index for index, pictures in enumerate(found) for _ in pictures]
    images = read_pictures(folder, paths, image_size, resize)
    return PictureSet(images, torch.tensor(labels), class_names, tuple(paths), split=split)


def is_undivided(root: Path) -> bool:
    """Return whether a folder holds folders of classes, but neither train/ nor test/."""
    if not root.is_dir() or (root / "train").is_dir() or (root / "test").is_dir():
        return False
    return any(path.is_dir() and skipped_folder(path.name) is None for path in root.iterdir())


def part_folder(root: Path, name: Split) -> Path:
    """Return the folder whose class folders hold the pictures of a part, and perhaps those of the other one."""
    return root if is_undivided(root) else root / name


def _absent(root: Path, folder: Path) -> str:
    """Return what is wrong with a data root in which the folder of a part is missing."""
    if not root.exists():
        return f"{root}: no such folder"
    if not root.is_dir():
        return f"{root}: a file, not a folder"
    if (root / "train").is_dir() or (root / "test").is_dir():
        return f"{folder}: no such folder"
    return f"{root}: no folders of classes are in it"


def in_test_part(root: Path, class_names: Sequence[str], split: AutomaticSplit | None) -> Callable[[Path], bool]:
    """Return a function that tells which pictures of a folder a network was not trained on.

    Args:
        root: The folder.
        class_names: The network's classes.
        split: How its own folder was divided. None, and a folder without its class folders, give all pictures.
    """
    if split is None or not is_undivided(root) or not all((root / name).is_dir() for name in class_names):
        return lambda path: True
    bounds = dict(zip(class_names, split.bounds, strict=True))
    # A key is never below the empty text: pictures of other classes are no test pictures.
    return lambda path: split.key(path) <= bounds.get(path.relative_to(root).parts[0], "")


def _check_not_nested(root: Path, class_names: Sequence[str]) -> None:
    """Refuse a folder that holds a data set, such as data/ where data/photos/train is.

    Raises:
        DatasetError: It does.
    """
    for name in class_names:
        if (root / name / "train").is_dir() and (root / name / "test").is_dir():
            raise DatasetError(
                f"{root}: {name}/ in it has train/ and test/ of its own; point --data-root at {root / name}"
            )


def _divide(
    root: Path, found: dict[str, list[Path]], of: AutomaticSplit, name: Split
) -> tuple[list[list[Path]], AutomaticSplit]:
    """Return the pictures of a part, by class, and the split with its bounds. Tell how the folder was divided.

    Raises:
        DatasetError: A class has too few pictures to be divided, or a file cannot be read.
    """
    try:
        keys = [of.keys(paths) for paths in found.values()]
    except OSError as error:
        raise DatasetError(f"{root}: a picture cannot be read ({one_line(error)}); remove or replace it") from None
    for label, of_class in zip(found, keys, strict=True):
        # One to train on, one to validate on, one to judge on.
        if not of.bounds and len(set(of_class)) < _FEWEST:
            raise DatasetError(
                f"{root}: class {label!r} has too few different pictures to be divided ({len(set(of_class))}); give it "
                f"{_FEWEST} or more, or make train/ and test/ yourself"
            )
    split = replace(of, bounds=of.bounds or tuple(of.bound(of_class) for of_class in keys))
    parts: dict[Split, list[list[Path]]] = {"train": [], "test": []}
    for paths, of_class, bound in zip(found.values(), keys, split.bounds, strict=True):
        judged = {key for key in of_class if key <= bound}
        parts["test"].append([path for path, key in zip(paths, of_class, strict=True) if key in judged])
        parts["train"].append([path for path, key in zip(paths, of_class, strict=True) if key not in judged])
    for label, paths in zip(found, parts[name], strict=True):
        if not paths:
            raise DatasetError(
                f"{root}: no picture of class {label!r} is in the {name} part, by the division that the checkpoint was "
                "trained with; give the --data-root that it was trained on"
            )
    if first_on_machine():
        counts = {side: sum(map(len, classes)) for side, classes in parts.items()}
        how = "as the checkpoint's training did" if of.bounds else f"by their content and seed {of.seed}"
        _tell_once(
            f"{root}: no train/ and no test/, so its {len(found)} class folders are divided {how}: {counts['train']:,} "
            f"pictures to train on, {counts['test']:,} to judge on"
        )
        paths = [path for of_class in found.values() for path in of_class]
        several = in_several_classes(root, by_content(paths, [key for of_class in keys for key in of_class]))
        if several is not None:
            _tell_once(several)
    return parts[name], split


@cache
def _tell_once(line: str) -> None:
    """Print a line on standard error, once in a process: a command may read a folder several times."""
    say(line)


def with_room_for_crops(pictures: PictureSet, folder: Path) -> PictureSet:
    """Return pictures that read_picture_folder read, with larger, whole ones beside them for random crops.

    Every file is read a second time. Keeping only the larger pictures would change what is validated.

    Args:
        pictures: All of a folder's pictures, of equal sides.
        folder: See read_pictures.

    Raises:
        DatasetError: See read_pictures.
    """
    files, side = list(pictures.files), kept_side(pictures.images.shape[3])
    aspects = aspects_of(read_sizes(folder, files))
    return replace(pictures, whole=WholePictures(_decode(folder, files, (side, side)), aspects))


def _class_names(folder: Path, skipped: Skipped) -> tuple[str, ...]:
    """Return the names of the class folders, and count what else lies beside them."""
    class_names = []
    for path in sorted(folder.iterdir()):
        hidden = Reason.HIDDEN_FILE if path.name.startswith(".") else Reason.OUTSIDE
        reason = skipped_folder(path.name) if path.is_dir() else hidden
        if reason is None:
            class_names.append(path.name)
        else:
            skipped.add(reason, path.name)
    return tuple(class_names)


def _check_found(folder: Path, found: dict[str, list[Path]]) -> None:
    """Refuse a folder that no classifier can be trained or judged on.

    Args:
        folder: See read_picture_folder.
        found: The picture files of each class.

    Raises:
        DatasetError: No pictures at all, a class without any, or a single class.
    """
    suffixes = ", ".join(sorted(SUFFIXES))
    if not any(found.values()):
        raise DatasetError(f"{folder}: no pictures ({suffixes}) in class folders; {LAYOUT}")
    empty = [name for name, pictures in found.items() if not pictures]
    if empty:
        shown = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise DatasetError(
            f"{folder}: no file in class {shown} is a picture that can be read ({suffixes}); "
            "convert its pictures to one of these formats, or remove the folder"
        )
    if len(found) == 1:
        (name,) = found
        inside = [path for path in (folder / name).iterdir() if path.is_dir() and skipped_folder(path.name) is None]
        fix = f"point --data-root at {folder / name}, if the folders in it are the classes" if inside else LAYOUT
        raise DatasetError(f"{folder}: only one class, {name!r}, but a classifier needs two; {fix}")


def read_pictures(
    folder: Path, paths: list[Path], image_size: int | ChooseSize | None, resize: str = "stretch"
) -> Tensor:
    """Read picture files into one tensor.

    Args:
        folder: Named in messages.
        paths: At least one file.
        image_size: See read_picture_folder.
        resize: Treatment of a picture of another aspect, see sgn_serve.pictures.resizing.

    Returns:
        (N, 3, H, W) uint8 RGB, in the order of the paths. In a mapped file where they would fill the memory.

    Raises:
        DatasetError: Sizes differ, neither memory nor disk will hold them, or files are broken; the message names them.
    """
    sizes = read_sizes(folder, paths)
    if callable(image_size):
        image_size = image_size(sizes)
    if image_size is None and len(set(sizes)) > 1:
        raise DatasetError(f"{folder}: pictures of {len(set(sizes))} sizes; resize them all with --image-size PIXELS")
    return _decode(folder, paths, sizes[0] if image_size is None else (image_size, image_size), resize)


def _decode(folder: Path, paths: list[Path], size: tuple[int, int], resize: str = "stretch") -> Tensor:
    """Read picture files to the (height, width) that is wanted; see read_pictures."""
    height, width = size
    needed, free = len(paths) * 3 * height * width, free_memory(torch.device("cpu"))
    shape, told = (len(paths), 3, height, width), f"{len(paths):,} pictures of {width}x{height} take {gib(needed)}"
    if free is None or needed <= _IN_MEMORY * free:
        images = np.empty(shape, np.uint8)
    else:
        try:
            images = in_mapped_file(shape)
        except FileSpaceError as error:
            raise DatasetError(
                f"{folder}: {told}, but {gib(free)} of memory is free and {error}; pass a smaller --image-size, or a "
                "--data-root with fewer pictures"
            ) from None
        if first_on_machine():
            say(
                f"{folder}: {told}, too much for the {gib(free)} of free memory, so they are kept on the disk",
            )

    def decode(index: int) -> None:
        images[index] = read_rgb(paths[index], size, resize=resize).transpose(2, 0, 1)

    _for_each(decode, paths, folder, "reading pictures")
    return torch.from_numpy(images)


def read_sizes(folder: Path, paths: list[Path]) -> list[tuple[int, int]]:
    """Return the (height, width) of picture files as they are shown, in pixels.

    Args:
        folder: Named in messages.
        paths: The files.

    Raises:
        DatasetError: Some cannot be read; the message names them.
    """
    sizes: list[tuple[int, int]] = [(0, 0)] * len(paths)

    def look(index: int) -> None:
        sizes[index] = read_size(paths[index])

    _for_each(look, paths, folder, "checking pictures")
    return sizes


def _for_each(work: Callable[[int], None], paths: Sequence[Path], folder: Path, description: str) -> None:
    """Run work(index) for each picture on several threads, under a progress bar where it takes long.

    Raises:
        DatasetError: It failed for some pictures. The message names them, and the classes without any other picture.
    """
    broken: dict[Path, str] = {}

    def guarded(index: int) -> None:
        try:
            work(index)
        except Exception as error:  # a broken picture makes Pillow raise OSError, SyntaxError, struct.error, ...
            broken[paths[index]] = f"{paths[index]}: not a readable picture ({one_line(error)})"

    # The delay keeps the bar from flashing up for the smallest folder.
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), desc=description, unit="picture", delay=2) as bar:
        for first in range(0, len(paths), _CHUNK):
            chunk = range(first, min(first + _CHUNK, len(paths)))
            list(pool.map(guarded, chunk))
            bar.update(len(chunk))
            if len(broken) > _BROKEN_AT_MOST:
                break
    if broken:
        shown = "; ".join(sorted(broken.values())[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        of_class = {path: path.relative_to(folder).parts[0] for path in paths}
        without = {of_class[path] for path in broken} - {of_class[path] for path in paths if path not in broken}
        names = ", ".join(repr(name) for name in sorted(without)[:5])
        none = f"no picture of class {names} can be read: " if without else ""
        raise DatasetError(f"{none}{shown}{more}; remove or replace what is broken")
