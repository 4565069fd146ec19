"""Find the picture files in a folder, and say in one line what is passed over."""

import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from sgn_serve.pictures.files import SUFFIXES

_ARCHIVERS = ("__MACOSX",)
"""Folders that programs leave behind beside the pictures, apart from those with a dot in front."""
_NAMED = 3
"""Most names of one kind in the line."""


class Reason(Enum):
    """Why a file or folder is passed over: in words for one of them, and for several."""

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
    return [Path(path) for path in _walk(str(folder), skipped, recursive, set())]


def walk_pictures(folder: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the paths that find_pictures returns, one by one. A folder that cannot be read is yielded in its place.

    Args:
        folder: See find_pictures.
        skipped: See find_pictures.
    """
    return _walk(str(folder), skipped, True, set(), yield_unreadable=True)


def _walk(
    folder: str, skipped: Skipped, recursive: bool, seen: set[str], yield_unreadable: bool = False
) -> Iterator[str]:
    place = os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        if not yield_unreadable:
            raise
        yield folder
        return
    within = "" if folder == os.curdir else folder  # as pathlib names what is in the current folder
    for entry in ordered:
        if entry.is_dir():
            reason = skipped_folder(entry.name)
            if reason is not None:
                skipped.add(reason, entry.name)
            elif recursive:
                yield from _walk(os.path.join(within, entry.name), skipped, recursive, seen, yield_unreadable)
        elif entry.name.startswith("."):
            skipped.add(Reason.HIDDEN_FILE, entry.name)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield os.path.join(within, entry.name)
        else:
            skipped.add(Reason.OTHER_SUFFIX, entry.name)
