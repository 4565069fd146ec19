"""Name the inputs of a run: one item is one picture, and becomes one row."""

import os
from typing import NamedTuple


class Item(NamedTuple):
    """One input. A chunk of them can be sent to another process.

    A tuple, for there may be millions: a frozen dataclass takes 2.5 times as long to make.

    Attributes:
        name: Text in the column `path`.
        file: The path of the picture's file, None if it is not in a file of its own.
        content: The picture's file in memory, None if it must be read first.
        table: The Parquet file that holds the picture's bytes, None if none does.
        column: The column of the table.
        row: The row of the table, from 0.
        missing: Why there is nothing to read, "" if there is.
    """

    name: str
    file: bytes | None = None
    content: bytes | None = None
    table: bytes | None = None
    column: str = ""
    row: int = 0
    missing: str = ""


def shown(path: bytes) -> str:
    r"""Return a path as text. A byte that is not UTF-8 becomes \xNN."""
    return path.decode("utf-8", "backslashreplace")


def item_of_file(path: str | bytes | os.PathLike[str]) -> Item:
    """Return the item of a file."""
    encoded = os.fsencode(path)
    return Item(shown(encoded), file=encoded)
