"""Read columns of Parquet files, a few rows at a time, in a confined process for each."""

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from itertools import accumulate

from sgn_serve.classify.errors import ClassifyError, needs_pyarrow
from sgn_serve.classify.items import Item, shown
from sgn_serve.classify.table_connection import (
    About,
    Content,
    ReadingFailed,
    SystemShort,
    TableProcess,
    open_table,
    shortage,
    shortage_of_memory,
)
from sgn_serve.classify.table_messages import CONTINUE

_ROWS = 16
"""Rows of pictures that are read at a time. Where that fails, the row group is read again one by one."""
_PATHS = 4096
"""Rows of paths that are read at a time."""
_LONGEST_PATH = 1 << 16
_TRIES = 3


class TableUnreadable(ClassifyError):
    """The file is not Parquet, cannot be read, or has been removed. The message names it."""


class CellUnreadable(Exception):
    """A row of a damaged table cannot be read. Its text says why."""


class CellTooLarge(Exception):
    """A cell has more bytes than allowed.

    Attributes:
        length: Its bytes.
    """

    def __init__(self, length: int):
        super().__init__(length)
        self.length = length


class TableReader:
    """Reads a column. Rows that are asked for in their order are read once.

    Where a row group is damaged, the first row that cannot be read and the rest of the group are lost. Rows before it,
    and other groups, are not.

    Args:
        path: The Parquet file.
        column: The column. None takes `path`, `file` or `image`, or the only one.
        most_bytes: Largest cell.
        rows: Rows to read at a time.
        was_listed: Whether it was a good table before. What is refused now has changed since.
    """

    def __init__(self, path: bytes, column: str | None, most_bytes: int, rows: int = _ROWS, was_listed: bool = True):
        self._path, self._column, self._most_bytes, self._rows = path, column, most_bytes, rows
        self._was_listed = was_listed
        self._about: About | None = None
        self._process: TableProcess | None = None
        self._given_up = False
        self._starting = threading.Lock()
        self._begins = [0]
        self._one_by_one: set[int] = set()
        self._damaged: dict[int, tuple[int, str]] = {}
        self._group = -1
        self._next = 0
        self._cells: list[Content] = []

    def open(self) -> About:
        """Return what the table holds.

        Raises:
            TableUnreadable: It is no table, it cannot be read, or it is another one than before.
            ClassifyError: There is no such column, pyarrow is missing, or the system lacks something.
        """
        if self._about is None:
            self._start(self._rows)
        assert self._about is not None, "the start tells it"
        return self._about

    def cell(self, row: int) -> bytes | None:
        """Return the content of a row, counted from 0. None for an empty cell.

        Raises:
            CellTooLarge: It is too large.
            CellUnreadable: The table is damaged there.
            ClassifyError: See open.
        """
        if not self._next - len(self._cells) <= row < self._next:
            self._read(row)
        cell = self._cells[row - self._next]
        if isinstance(cell, int):
            raise CellTooLarge(cell)
        return cell

    def give_up(self) -> None:
        """End all waits, at once. Any thread may call it."""
        with self._starting:
            self._given_up = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process."""
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _start(self, rows: int) -> None:
        """Start a process, and wait until it has opened the table."""
        if find_spec("pyarrow") is None:
            raise needs_pyarrow(shown(self._path))
        for attempt in range(_TRIES):
            try:
                file = open_table(self._path)
                try:
                    with self._starting:
                        if self._given_up:
                            break
                        self._process = TableProcess(file, self._column, rows, self._most_bytes)
                finally:
                    os.close(file)
                about = self._process.open()
            except SystemShort as short:
                self.close()
                raise self._postponed(str(short)) from None
            except ReadingFailed as failed:
                self.close()
                if failed.was_killed:
                    if attempt == _TRIES - 1:
                        raise self._postponed(str(failed)) from None
                    continue
                if reason := shortage_of_memory(self._path):
                    raise self._postponed(reason) from None
                if failed.is_refusal and not self._was_listed:
                    raise ClassifyError(f"{shown(self._path)}: {failed}") from None
                raise TableUnreadable(
                    f"{shown(self._path)}: it cannot be read as a Parquet file ({failed}); write it anew"
                ) from None
            except BaseException:
                self.close()
                raise
            if self._about not in (None, about):
                self.close()
                raise TableUnreadable(f"{shown(self._path)}: it has changed while it was read")
            self._about = about
            self._begins = [0, *accumulate(about.groups)]
            self._group = -1
            return
        raise self._postponed("it was given up")

    def _postponed(self, reason: str) -> ClassifyError:
        return ClassifyError(
            f"{shown(self._path)}: it cannot be read now ({reason}); mend that, and go on with --resume"
        )

    def _read(self, row: int) -> None:
        """Read the cells around a row."""
        self.open()
        if row >= self._begins[-1]:
            raise CellUnreadable(f"the table has {self._begins[-1]} rows now")
        group = bisect_right(self._begins, row) - 1
        killed = 0
        while True:
            first_lost, reason = self._damaged.get(group, (row + 1, ""))
            if row >= first_lost:
                raise CellUnreadable(f"the table is damaged from row {first_lost} on ({reason})")
            try:
                self._read_in_group(group, row)
                return
            except SystemShort as short:
                self.close()
                self._cells = []
                raise self._postponed(str(short)) from None
            except ReadingFailed as failed:
                self.close()
                self._cells = []
                killed += failed.was_killed
                if self._given_up:
                    raise self._postponed("it was given up") from None
                if failed.was_killed:
                    if killed == _TRIES:
                        raise self._postponed(str(failed)) from None
                elif group not in self._one_by_one:
                    # In a new process, row by row: what is lost then depends on nothing but the row group.
                    self._one_by_one.add(group)
                elif reason := shortage(self._path):
                    raise self._postponed(reason) from None
                else:
                    self._damaged[group] = self._next, str(failed)

    def _read_in_group(self, group: int, row: int) -> None:
        """Read on in a row group until a row is among the cells.

        Raises:
            ReadingFailed: The rows from _next on cannot be read.
        """
        rows = 1 if group in self._one_by_one else self._rows
        if self._process is not None and self._process.rows != rows:
            self.close()
        if self._process is None:
            self._start(rows)
        assert self._process is not None, "it has been started"
        begin = CONTINUE
        if group != self._group or row < self._next:
            self._group, self._next, begin = group, self._begins[group], group
        while row >= self._next:
            count, self._cells = self._process.read(begin, row - self._begins[group])
            self._next += count
            begin = CONTINUE


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
    reader = TableReader(path, column, _LONGEST_PATH, _PATHS, was_listed=False)
    about = reader.open()
    rows = sum(about.groups)
    if about.holds == "paths":
        return about.column, _path_items(reader, path, about.column, rows)
    reader.close()
    return about.column, _byte_items(path, about.column, rows)


def _path_items(reader: TableReader, table: bytes, column: str, rows: int) -> Iterator[Item]:
    with closing(reader):
        for row in range(rows):
            path: bytes | None = None
            try:
                path = reader.cell(row)
            except CellTooLarge:
                pass
            except CellUnreadable as error:
                raise ClassifyError(
                    f"{shown(table)}: the column {column!r} cannot be read: {error}; write the file anew"
                ) from None
            if path and b"\0" not in path:
                yield Item(shown(path), file=path)
            else:
                yield Item(f"{shown(table)}:{row}", missing="the cell holds no path")


def _byte_items(table: bytes, column: str, rows: int) -> Iterator[Item]:
    name = shown(table)
    for row in range(rows):
        yield Item(f"{name}:{row}", table=table, column=column, row=row)


def can_be_opened(path: bytes, column: str) -> bool:
    """Return whether this machine can read a column of a Parquet file."""
    with closing(TableReader(path, column, 0)) as reader:
        try:
            reader.open()
        except ClassifyError:
            return False
    return True
