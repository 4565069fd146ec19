"""Read columns of Parquet files a few rows at a time. Everything that needs pyarrow to read is here."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgn_serve.classify.errors import ClassifyError, needs_pyarrow
from sgn_serve.classify.items import Item, shown
from sgn_serve.refusals import one_line

_ROWS = 16
"""Rows of pictures that are read at a time."""
_PATHS = 4096
"""Rows of paths that are read at a time."""
_BUFFER = 1 << 20
_USUAL = ("path", "file", "image")
"""Columns that are taken where none is named, the first that exists."""


class TableUnreadable(ClassifyError):
    """It is no Parquet file, or it cannot be read, or it has gone."""


class CellUnreadable(Exception):
    """A row of a damaged table cannot be read. Its text says why."""


class TableReader:
    """Reads the pictures in a column of bytes. Rows that are asked for in their order are read once.

    Rows are read _ROWS at a time. Where a row group is damaged, those that are read together and the rest of the group
    are lost. Rows before them, and other groups, are not.

    Args:
        path: The Parquet file.
        column: The column.

    Raises:
        TableUnreadable: It cannot be read any more.
        ClassifyError: pyarrow is missing.
    """

    def __init__(self, path: bytes, column: str):
        self._path, self._column = path, column
        self._file = _open(path)
        self._group_rows = _group_rows(self._file)
        self._damaged: dict[int, str] = {}
        self._first = self._next_group_begin = 0
        self._rows: list[bytes | None] = []
        self._batches: Iterator[Any] = iter(())
        self._start(0)

    def cell(self, row: int) -> bytes | None:
        """Return the bytes of a row, counted from 0. None for an empty cell.

        Raises:
            CellUnreadable: The table is damaged there.
            ClassifyError: The system cannot read it now.
        """
        if row < self._first:
            self._start(row)
        while row >= self._first + len(self._rows):
            after = self._first + len(self._rows)
            if row >= self._next_group_begin:
                self._start(row)
                continue
            if after not in self._damaged:
                try:
                    self._rows = _contents(next(self._batches).column(0).to_pylist())
                except Exception as error:  # pyarrow's, which has no number for what is damaged, and the system's
                    if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                        raise ClassifyError(
                            f"{shown(self._path)}: row {after} cannot be read ({one_line(error)}); mend that, and go "
                            "on with --resume"
                        ) from None
                    self._damaged[after] = f"the table is damaged from row {after} on ({one_line(error)})"
            if after in self._damaged:
                raise CellUnreadable(self._damaged[after])
            self._first = after
        return self._rows[row - self._first]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _start(self, row: int) -> None:
        """Read from the row group on that holds a row."""
        begin = group = 0
        while row >= begin + self._group_rows[group]:
            begin += self._group_rows[group]
            group += 1
        self._first, self._next_group_begin = begin, begin + self._group_rows[group]
        self._rows = []
        self._batches = self._file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[self._column])


def table_items(path: bytes, column: str | None) -> tuple[str, Iterator[Item]]:
    """Return the column that a Parquet file's inputs are in, and an item for each row.

    A column of texts holds paths. One of bytes holds the pictures themselves. So does one of records with a field
    `bytes`, as data sets of Hugging Face have it.

    Args:
        path: The Parquet file.
        column: The column. None takes `path`, `file` or `image`, or the only one.

    Raises:
        ClassifyError: It is no Parquet file, pyarrow is missing, or there is no such column.
    """
    file = _open(path)
    names = file.schema_arrow.names
    if sum(_group_rows(file)) != file.metadata.num_rows:
        raise ClassifyError(
            f"{shown(path)}: it is damaged, for its row groups have other rows than it has; write it anew"
        )
    if column is not None and names.count(column) > 1:
        raise ClassifyError(f"{shown(path)}: it has several columns {column!r}; give each another name")
    if column is None:
        column = next((name for name in _USUAL if name in names), names[0] if len(names) == 1 else None)
    if column is None or column not in names:
        wanted = "more than one column" if column is None else f"no column {column!r}"
        raise ClassifyError(f"{shown(path)}: it has {wanted}; name one with --column: {', '.join(names)}")
    kind = _kind(file.schema_arrow.field(column).type)
    if kind is None:
        raise ClassifyError(f"{shown(path)}: the column {column!r} holds neither paths nor bytes; name another one")
    rows = file.metadata.num_rows
    return column, _path_items(file, path, column) if kind == "paths" else _byte_items(path, column, rows)


def _path_items(file: Any, table: bytes, column: str) -> Iterator[Item]:
    row = 0
    for cells in _cells(file, table, column):
        for text in cells:
            if text and "\0" not in text:
                encoded = text.encode("utf-8", "surrogateescape")
                yield Item(shown(encoded), file=encoded)
            else:
                yield Item(f"{shown(table)}:{row}", missing="the cell holds no path")
            row += 1


def _cells(file: Any, table: bytes, column: str) -> Iterator[list[Any]]:
    try:
        for batch in file.iter_batches(batch_size=_PATHS, columns=[column]):
            yield batch.column(0).to_pylist()
    except Exception as error:  # pyarrow's, and the system's
        raise ClassifyError(
            f"{shown(table)}: the column {column!r} cannot be read ({one_line(error)}); write the file anew"
        ) from None


def _byte_items(table: bytes, column: str, rows: int) -> Iterator[Item]:
    name = shown(table)
    for row in range(rows):
        yield Item(f"{name}:{row}", table=table, column=column, row=row)


def _group_rows(file: Any) -> list[int]:
    metadata = file.metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def can_be_opened(path: bytes) -> bool:
    """Return whether a file is a Parquet file that this machine can read."""
    try:
        _open(path).close()
    except ClassifyError:
        return False
    return True


def _open(path: bytes) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise needs_pyarrow(shown(path)) from None
    try:
        return parquet.ParquetFile(Path(os.fsdecode(path)), buffer_size=_BUFFER, page_checksum_verification=True)
    except Exception as error:  # pyarrow's, and the system's
        raise TableUnreadable(f"{shown(path)}: it cannot be read as a Parquet file ({one_line(error)})") from None


def _kind(kind: Any) -> str | None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "paths"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return "bytes" if any(test(kind) for test in tests) else None


def _contents(cells: list[Any]) -> list[bytes | None]:
    return [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
