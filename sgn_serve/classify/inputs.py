"""Find the inputs that a command line names, and keep their list in a file.

Names are in memory together where they are sorted: those in one folder, the matches of a glob, and all objects below an
address.
"""

import glob
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.items import Item, item_of_file, shown
from sgn_serve.classify.objects import is_object, object_items
from sgn_serve.classify.tables import table_items
from sgn_serve.classify.unfinished import is_unfinished_run
from sgn_serve.common.graph_format import file_sha256
from sgn_serve.pictures.files import SUFFIXES
from sgn_serve.pictures.folders import Skipped, walk_pictures

LISTS = (".txt", ".lst")
TABLES = (".parquet",)
_BLOCK = 1 << 16
_FOOTER = 1 << 16
_FILE, _ROW, _MISSING = b"F", b"R", b"M"
"""Kinds of records in the list of inputs: a file, a row of a table, and a row of a table without a path."""
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Beginnings of names of what this process has open. A shell may have put a file there, whose name it hides."""
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Found:
    """Describe the inputs that were found.

    Attributes:
        identity: Digests of the lists and tables among the sources, by name: what a resumed run must find unchanged.
        tables: The tables whose cells are pictures, and their columns.
        skipped: Files that were passed over in folders.
        count: Number of inputs.
    """

    identity: dict[str, str] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    count: int = 0


def write_inputs(
    sources: list[str], column: str | None, target: BinaryIO, found: Found, own: Path | None = None
) -> None:
    """Find the inputs, in order, and write a record of each.

    Args:
        sources: Files, folders, globs, lists of paths (.txt) and tables (.parquet).
        column: The column of the tables; see table_items.
        target: Gets the records.
        found: Gets the description. Its count grows meanwhile, for a progress bar.
        own: The folder of the run's own files, which are no inputs. None where it has none.

    Raises:
        ClassifyError: A source does not exist, or cannot be read. Or no picture was found.
    """
    for source in sources:
        for item in _items(source, column, found, own):
            target.write(_record(item, found))
            found.count += 1
    if not found.count:
        passed = f" (passed over: {found.skipped})" if str(found.skipped) else ""
        raise ClassifyError(f"{', '.join(sources)}: no pictures in it{passed}; name files, or folders that hold some")


def identity_of(source: str) -> str:
    """Return a digest of a list or of a table, "" for other sources. A table's content is not read, for it may be huge.

    Raises:
        ClassifyError: It cannot be read.
    """
    if not _is_file(source, LISTS + TABLES):
        return ""
    try:
        if _is_file(source, LISTS):
            return file_sha256(Path(source))
        with open(source, "rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - _FOOTER))
            return hashlib.sha256(b"%d %d " % (status.st_size, status.st_mtime_ns) + file.read()).hexdigest()
    except OSError as error:
        raise _unreadable(source, error) from None


def read_inputs(path: Path, tables: list[tuple[str, str]], start: int) -> Iterator[Item]:
    """Yield the inputs of a list, from a number on.

    Args:
        path: The file that write_inputs has written.
        tables: See Found.
        start: Number of the first, from 0.
    """
    with path.open("rb") as file:
        for record in islice(_split(file, b"\0"), start, None):
            kind, text = record[:1], record[1:]
            if kind == _FILE:
                yield item_of_file(text)
            elif kind == _MISSING:
                yield Item(shown(text), missing="the cell holds no path")
            else:
                number, _, row = text.partition(b":")
                table, column = tables[int(number)]
                encoded = os.fsencode(table)
                yield Item(f"{shown(encoded)}:{int(row)}", table=encoded, column=column, row=int(row))


def _record(item: Item, found: Found) -> bytes:
    if item.file is not None:
        return _FILE + item.file + b"\0"
    if item.missing:
        return _MISSING + item.name.encode() + b"\0"
    return _ROW + b"%d:%d\0" % (len(found.tables) - 1, item.row)


def _items(source: str, column: str | None, found: Found, own: Path | None) -> Iterator[Item]:
    digest = identity_of(source)
    if digest:
        found.identity[source] = digest
    if is_object(os.fsencode(source)):
        if source.lower().endswith(LISTS + TABLES):
            raise ClassifyError(f"{source}: lists and tables must be files of this machine; copy it first")
        yield from object_items(source, found.skipped)
    elif os.path.isdir(source):
        yield from _in_folder(source, found, own)
    elif _is_file(source, LISTS):
        yield from _listed(source)
    elif _is_file(source, TABLES):
        name, items = table_items(os.fsencode(source), column)
        found.tables.append((source, name))
        yield from items
    elif _is_stream(source):
        raise ClassifyError(
            f"{source}: a pipe or a device, which can be read only once; write the paths to a file that ends in .txt, "
            "and name that"
        )
    elif os.path.lexists(source):
        yield item_of_file(source)
    elif glob.has_magic(source):
        yield from _matching(source, found, own)
    elif Path(source).suffix.lower() in SUFFIXES:  # a shell's glob may have named it before it went
        yield item_of_file(source)
    else:
        raise ClassifyError(f"{source}: there is no such file or folder; correct the path")


def _in_folder(folder: str, found: Found, own: Path | None) -> Iterator[Item]:
    """Yield the pictures of a folder. One that holds tables and no pictures is told, for they would be passed over."""
    is_empty = True
    for path in walk_pictures(Path(folder), found.skipped, own):
        is_empty = False
        yield item_of_file(path)
    if is_empty and (tables := _first_folder_of_tables(folder)):
        pattern = f"{shlex.quote(tables.rstrip(os.sep))}/*.parquet"
        raise ClassifyError(
            f"{folder}: no pictures in it, but Parquet files, as Spark writes them; name the files, which a shell does "
            f"for {pattern} without quotes, and their column with --column"
        )


def _first_folder_of_tables(folder: str) -> str:
    for found, folders, names in os.walk(folder):
        folders.sort()
        if any(name.lower().endswith(TABLES) for name in names):
            return found
    return ""


def _matching(pattern: str, found: Found, own: Path | None) -> Iterator[Item]:
    if pattern.lower().endswith(LISTS + TABLES):
        raise ClassifyError(
            f"{pattern}: a pattern is for pictures; name each list or table, as a shell does without quotes"
        )
    _refuse_endless(pattern)
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise ClassifyError(f"{pattern}: no file matches it; correct the pattern")
    of_a_run = cache(is_unfinished_run)
    for match in matches:
        if of_a_run(match.rstrip(os.sep)) or of_a_run(os.path.dirname(match)):
            continue
        if os.path.isdir(match):
            if "**" not in pattern:  # ** matches the folder's content too
                yield from map(item_of_file, walk_pictures(Path(match), found.skipped, own))
        else:
            yield item_of_file(match)


def _refuse_endless(pattern: str) -> None:
    """Refuse a ** that follows a link into a folder above it: with two of them, glob would never end."""
    before, recursive, _ = pattern.partition("**")
    if not recursive:
        return
    for match in glob.iglob(os.path.join(before, "**", ""), recursive=True):
        folder = match.rstrip(os.sep)
        if os.path.islink(folder) and any(os.path.samefile(folder, above) for above in Path(folder).parents):
            raise ClassifyError(
                f"{pattern}: {folder} leads back to a folder that it is in; name the folder instead of **"
            )


def _listed(source: str) -> Iterator[Item]:
    """Yield the paths of a list: a line each, or each ended by NUL as `find -print0` writes them."""
    try:
        with open(source, "rb") as file:
            start = file.read(_BLOCK)
            if start.startswith(_UTF16_MARKS):
                raise ClassifyError(f"{source}: it is text in UTF-16; save it in UTF-8")
            file.seek(len(_UTF8_MARK) if start.startswith(_UTF8_MARK) else 0)
            by_nul = b"\0" in start
            for path in _split(file, b"\0" if by_nul else b"\n"):
                path = path if by_nul else path.removesuffix(b"\r")
                if path:
                    yield item_of_file(path)
    except OSError as error:
        raise _unreadable(source, error) from None


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(separator)
        yield from whole
    if rest:
        yield rest


def _is_stream(source: str) -> bool:
    """Return whether a name is that of a pipe, as a shell's <(...) makes them, or of a device, or standard input."""
    if source.startswith(_STREAMS):
        return True
    try:
        mode = os.stat(source).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)  # folders were looked at before


def _is_file(source: str, suffixes: tuple[str, ...]) -> bool:
    return source.lower().endswith(suffixes) and os.path.isfile(source)


def _unreadable(source: str, error: OSError) -> ClassifyError:
    return ClassifyError(f"{source}: it cannot be read ({error.strerror}); correct its permissions or the path")
