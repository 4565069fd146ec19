"""Find the picture files in a folder, and say in one line what is passed over."""

import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from sgn_serve.common.error_text import visible
from sgn_serve.pictures.files import SUFFIXES

_ARCHIVERS = ("__MACOSX",)
"""Folders that programs leave behind beside the pictures, apart from those with a dot in front."""
_NAMED = 3
"""Most names of one kind in the line."""


class Reason(Enum):
    """The reason to pass over a file or folder: in words for one of them, and for several."""

    HIDDEN_FILE = ("hidden file", "hidden files")
    HIDDEN_FOLDER = ("hidden folder", "hidden folders")
    ARCHIVERS_FOLDER = ("folder of an archive program", "folders of an archive program")
    OTHER_SUFFIX = ("file without the suffix of a picture", "files without the suffix of a picture")
    OUTSIDE = ("file outside the class folders", "files outside the class folders")


class Skipped:
    """Counts the files and folders that are passed over, by reason."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._names: dict[Reason, list[str]] = {}
        """The first different names by reason: one more than are shown, for a folder may hold millions."""

    def add(self, reason: Reason, name: str) -> None:
        """Count one file or folder."""
        self._counts[reason] += 1
        name = visible(name)
        names = self._names.setdefault(reason, [])
        if len(names) <= _NAMED and name not in names:
            names.append(name)

    def __str__(self) -> str:
        """Return a text like "3 hidden files (.a.png, .b.png, ...)"; "" if nothing is passed over."""
        parts = []
        for reason, names in self._names.items():
            count = self._counts[reason]
            shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            parts.append(f"{count:,} {reason.value[count > 1]} ({shown})")
        return ", ".join(parts)


def skipped_folder(name: str) -> Reason | None:
    """Return why a folder of this name holds no pictures of the user's; None if it may."""
    if name.startswith("."):
        return Reason.HIDDEN_FOLDER
    return Reason.ARCHIVERS_FOLDER if name in _ARCHIVERS else None


def find_pictures(folder: Path, skipped: Skipped, recursive: bool = True) -> list[Path]:
    """Return the picture files in a folder, and in the folders in it, in the order of their names.

    Args:
        folder: Where to look. Links to folders are followed, and each folder is read once.
        skipped: Gets what is passed over.
        recursive: Whether folders in it are looked into.

    Raises:
        OSError: A folder cannot be read.
    """
    return [Path(path) for path in _walk(str(folder), skipped, recursive)]


def walk_pictures(folder: Path, skipped: Skipped, without: Path | None = None) -> Iterator[str]:
    """Yield the paths that find_pictures returns, one by one. A folder that cannot be read is yielded in its place.

    Args:
        folder: See find_pictures.
        skipped: See find_pictures.
        without: A folder that is left out, and not counted either. None leaves out none.
    """
    return _walk(str(folder), skipped, True, yield_unreadable=True, without=without)


def _walk(
    top: str, skipped: Skipped, recursive: bool, yield_unreadable: bool = False, without: Path | None = None
) -> Iterator[str]:
    seen: set[tuple[int, int]] = set() if without is None else {_place(os.stat(without))}
    levels: list[tuple[str, Iterator[os.DirEntry[str]]]] = []
    folder: str | None = top
    while folder is not None or levels:
        if folder is not None:
            try:
                within = "" if folder == os.curdir else folder  # as pathlib names what is in the current folder
                levels.append((within, iter(_unseen_entries(folder, seen))))
            except OSError:
                if not yield_unreadable:
                    raise
                yield folder
            folder = None
            continue
        within, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
        elif _is_folder(entry):
            reason = skipped_folder(entry.name)
            if reason is not None:
                skipped.add(reason, entry.name)
            elif recursive:
                folder = os.path.join(within, entry.name)
        elif entry.name.startswith("."):
            skipped.add(Reason.HIDDEN_FILE, entry.name)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield os.path.join(within, entry.name)
        else:
            skipped.add(Reason.OTHER_SUFFIX, entry.name)


def _unseen_entries(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in the order of names. Nothing for one that was seen before, by a link to it.

    Raises:
        OSError: It cannot be read.
    """
    place = _place(os.stat(folder))
    if place in seen:
        return []
    seen.add(place)
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or leads to one. A link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, through a file, or into a folder that nobody may enter
        return False
