"""Tell what a person should know of a folder of pictures before a network is trained on it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sgn_serve.common.graph_format import file_sha256
from sgn_serve.pictures.folders import Skipped, find_pictures, skipped_folder, walk_pictures

_PARTS = ("train", "test")
_CHUNK = 1000
"""Files handed to the threads at a time."""
_SHOWN = 5
"""Most names that a line lists."""


def folder_notes(root: Path) -> Iterator[str]:
    """Yield a line for each thing that is amiss in a folder that holds train/, but for what training refuses.

    Args:
        root: The folder. One without train/ gives no line.
    """
    if not (root / "train").is_dir():
        return
    try:
        notes = (_missing_test(root), _other_classes(root), _beside(root), *_same_contents(root))
        yield from (note for note in notes if note)
    except OSError:  # reading the pictures raises the same error with a better message
        return


def by_content(paths: Sequence[Path], contents: Iterable[Any]) -> list[list[Path]]:
    """Return the files that have the content of another one, together with those.

    Args:
        paths: The files.
        contents: What stands for the content of each.
    """
    together: dict[Any, list[Path]] = {}
    for path, content in zip(paths, contents, strict=True):
        together.setdefault(content, []).append(path)
    return [files for files in together.values() if len(files) > 1]


def in_several_classes(folder: Path, together: Iterable[list[Path]]) -> str | None:
    """Return a line that counts the pictures that stand in several classes; None without any.

    Args:
        folder: Holds the folders of the classes.
        together: Files of equal content; see by_content.
    """
    found: list[tuple[Path, Path]] = []
    for files in together:
        first, *others = [path.relative_to(folder) for path in files]
        other = next((path for path in others if path.parts[0] != first.parts[0]), None)
        if other is not None:
            found.append((first, other))
    if not found:
        return None
    first, other = found[0]
    are = "picture stands" if len(found) == 1 else "pictures stand"
    return f"{folder}: {len(found):,} {are} in several classes, such as {first} and {other}; remove the wrong ones"


def _missing_test(root: Path) -> str | None:
    if (root / "test").is_dir():
        return None
    return (
        f"{root / 'test'} is missing: training goes on without it, but python -m training.evaluate judges a network on "
        "the pictures there"
    )


def _other_classes(root: Path) -> str | None:
    """Return a line if test/ has other classes, on which the network could not be judged."""
    if not (root / "test").is_dir():
        return None
    train, test = (_folders(root / part) for part in _PARTS)
    notes = [
        f"{there}/ lacks {_names(missing)}"
        for there, missing in (("train", test - train), ("test", train - test))
        if missing
    ]
    if not notes:
        return None
    return (
        f"{root}: {' and '.join(notes)}: training goes on, but judging refuses other classes than the network's; give "
        "both the same folders"
    )


def _beside(root: Path) -> str | None:
    """Return a line if there are folders of pictures beside train/, which nothing reads."""
    others = {
        name for name in _folders(root) - {*_PARTS} if any(map(os.path.isfile, walk_pictures(root / name, Skipped())))
    }
    if not others:
        return None
    return (
        f"{root}: pictures beside train/ and test/ are not read, those in {_names(others)}; where these are classes, "
        "move them into train/"
    )


def _same_contents(root: Path) -> list[str]:
    """Return a line for pictures in both parts, and one for those of the training part in several classes.

    Only files of equal size are read.
    """
    paths = {part: _pictures(root / part) for part in _PARTS if (root / part).is_dir()}
    files = [path for of_part in paths.values() for path in of_part]
    candidates = [path for group in by_content(files, (path.stat().st_size for path in files)) for path in group]
    with ThreadPoolExecutor() as pool:
        chunks = (candidates[first : first + _CHUNK] for first in range(0, len(candidates), _CHUNK))
        together = by_content(candidates, [digest for chunk in chunks for digest in pool.map(file_sha256, chunk)])
    train = root / "train"
    parts = [([path for path in group if path.is_relative_to(train)], group) for group in together]
    notes = [in_several_classes(train, [inside for inside, _ in parts if len(inside) > 1])]
    both = [(inside[0], path) for inside, group in parts if inside for path in group if not path.is_relative_to(train)]
    if both:
        inside, path = min(both, key=lambda pair: pair[1])
        notes.append(
            f"{root / 'test'}: {len(both):,} of {len(paths['test']):,} pictures are in train/ too, such as "
            f"{path.relative_to(root)} ({inside.relative_to(root)}); what is measured on them is too high, so remove "
            "them"
        )
    return [note for note in notes if note]


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and skipped_folder(path.name) is None}


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures of the classes as they are read: a link to the folder above gives a class all the others."""
    return [path for name in sorted(_folders(folder)) for path in find_pictures(folder / name, Skipped())]


def _names(names: set[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(repr(name) for name in listed[:_SHOWN])
    return f"{shown}, ..." if len(listed) > _SHOWN else shown
