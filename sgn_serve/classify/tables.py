"""Read columns of Parquet files, a few rows at a time, in a confined process for each (table_process.py)."""

import json
import os
import signal
import socket
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from struct import error as StructError

from sgn_serve.classify.errors import ClassifyError, needs_pyarrow
from sgn_serve.classify.items import Item, shown
from sgn_serve.classify.table_messages import (
    CELL,
    CONTINUE,
    COUNT,
    CPU_SECONDS,
    HEAD,
    NO_COLUMN,
    ORDER,
    START,
    Answer,
    Cell,
    receive,
)
from sgn_serve.error_text import one_line

_ROWS = 16
"""Rows of pictures that are read at a time. Where that fails, the row group is read again one by one."""
_PATHS = 4096
"""Rows of paths that are read at a time."""
_LONGEST_PATH = 1 << 16
_MEMORY, _MEMORY_A_BYTE, _MOST_MEMORY = 1 << 30, 3, 7 << 30
"""Address space that reading may take: this, so much more for each byte of the file, and no more than that. A page is
in memory as it is in the file and unpacked. Writers pack large pictures into pages of up to a gigabyte or two."""
_NONSENSE = "its reader tells nothing that makes sense"
_TRIES = 3
_END_SECONDS = 5.0
"""How long a process may take to end once it has closed its socket."""
_PACKAGES = str(Path(__file__).parents[2])
_MALLOC = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
"""Has pyarrow take what it needs and no more: its own pools reserve a gigabyte of address space first."""


class TableUnreadable(ClassifyError):
    """It is no Parquet file, or it cannot be read, or it has gone."""


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


class _Failed(Exception):
    """The process has answered with an error, or has ended.

    Attributes:
        answer: The kind of the answer. None where there was none.
        text: What it says.
        killed: Whether the process was killed from outside.
    """

    def __init__(self, answer: Answer | None, text: str, killed: bool = False):
        super().__init__(text)
        self.answer = answer
        self.text = text
        self.killed = killed


@dataclass(frozen=True)
class _About:
    """What a table holds.

    Attributes:
        column: The column of the inputs.
        holds: "paths" or "bytes".
        groups: Rows of each row group.
    """

    column: str
    holds: str
    groups: list[int]


class _Process:
    """A confined process that reads a column.

    Args:
        path: The Parquet file.
        column: The column. None takes a usual one.
        rows: Rows to read at a time.
        most_bytes: Largest cell that is sent.

    Attributes:
        rows: See above.
        about: What the table holds.

    Raises:
        _Failed: It cannot be read.
        OSError: The file cannot be opened, or the process cannot be started.
    """

    def __init__(self, path: bytes, column: str | None, rows: int, most_bytes: int):
        self.rows = rows
        self._most_answer = max(1 << 26, rows * (most_bytes + CELL.size) + COUNT.size)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = os.fstat(file).st_size
            self._memory = min(_MEMORY + _MEMORY_A_BYTE * size, _MOST_MEMORY)
            self._connection, far_end = socket.socketpair()
            with far_end:
                self._program = _start_program(file, far_end)
        finally:
            os.close(file)
        try:
            name = None if column is None else column.encode("utf-8", "surrogateescape")
            length = NO_COLUMN if name is None else len(name)
            with suppress(ConnectionError):  # the answer tells
                self._connection.sendall(START.pack(rows, most_bytes, self._memory, length) + (name or b""))
            about = json.loads(self._answer(Answer.TABLE))
            self.about = _About(about["column"], about["holds"], about["groups"])
        except BaseException:
            self.close()
            raise

    def read(self, group: int, wanted: int) -> tuple[int, list[bytes | int | None]]:
        """Return how many rows were read, and their cells if the wanted row is among them.

        A cell that is too large is its length, an empty one is None.

        Args:
            group: The row group to begin with, or CONTINUE.
            wanted: The row of the group that is wanted.

        Raises:
            _Failed: They cannot be read.
        """
        with suppress(ConnectionError):  # the answer tells
            self._connection.sendall(ORDER.pack(group, wanted))
        content = self._answer(Answer.CELLS)
        try:
            count, cells = _unpacked(content)
        except StructError:
            count, cells = 0, []
        if count < 1 or len(cells) not in (0, count):
            raise _Failed(None, _NONSENSE)
        return count, cells

    def kill(self) -> None:
        """End it at once. Any thread may call it."""
        self._program.kill()

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._program.kill()
        self._program.wait()

    def _answer(self, wanted: Answer) -> bytearray:
        """Return the content of the next answer.

        Raises:
            _Failed: It is of another kind, or the process has ended.
        """
        try:
            head = receive(self._connection, HEAD.size)
            kind, length = (None, 0) if head is None else HEAD.unpack(head)
            content = receive(self._connection, length) if length <= self._most_answer else None
        except ConnectionError:
            head = content = None
        if head is None or content is None:
            raise self._ended()
        if kind == wanted:
            return content
        if kind == Answer.MEMORY:
            raise _Failed(Answer.MEMORY, self._takes_too_much)
        if kind not in iter(Answer) or kind in (Answer.TABLE, Answer.CELLS):
            raise _Failed(None, _NONSENSE)
        raise _Failed(Answer(kind), " ".join(content.decode("utf-8", "replace").split()))

    @property
    def _takes_too_much(self) -> str:
        return f"reading it takes more than {self._memory >> 20} MB of memory"

    def _ended(self) -> _Failed:
        self._connection.close()
        try:
            status = self._program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
            return _Failed(None, _NONSENSE)
        if status == -signal.SIGPROF:
            return _Failed(None, f"reading it takes more than {CPU_SECONDS:g} s")
        if status == -signal.SIGKILL:
            return _Failed(None, "its reader was killed", killed=True)
        return _Failed(
            None, f"its reader has crashed, or {self._takes_too_much}"
        )  # many libraries crash without memory


def _unpacked(content: bytearray) -> tuple[int, list[bytes | int | None]]:
    """Return the number of rows in an answer, and their cells."""
    view = memoryview(content)
    (count,) = COUNT.unpack_from(view)
    cells: list[bytes | int | None] = []
    place = COUNT.size
    while place < len(view):
        kind, length = CELL.unpack_from(view, place)
        place += CELL.size
        if kind == Cell.CONTENT:
            cells.append(bytes(view[place : place + length]))
            place += length
        else:
            cells.append(None if kind == Cell.EMPTY else length)
    return count, cells


def _start_program(file: int, far_end: socket.socket) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, **_MALLOC}
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGES, *(path or os.getcwd() for path in sys.path)])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sgn_serve.classify.table_process", str(far_end.fileno())],
        env=environment,
        pass_fds=[far_end.fileno()],
        stdin=file,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # C++ writes there as it ends, in the middle of a progress bar
        start_new_session=True,  # Ctrl-C is for this process, which ends it
    )


def _start(path: bytes, column: str | None, rows: int, most_bytes: int) -> _Process:
    """Return a process that reads a table.

    Raises:
        TableUnreadable: It is no table, or it cannot be read.
        ClassifyError: There is no such column, pyarrow is missing, or the processes are killed from outside.
    """
    name = shown(path)
    for _ in range(_TRIES):
        try:
            return _Process(path, column, rows, most_bytes)
        except OSError as error:
            raise _unreadable(path, error.strerror or one_line(error)) from None
        except _Failed as failed:
            if failed.answer is Answer.REFUSED:
                raise ClassifyError(f"{name}: {failed.text}") from None
            if failed.answer is Answer.NO_PYARROW:
                raise needs_pyarrow(name) from None
            if not failed.killed:
                raise _unreadable(path, failed.text) from None
        except (ValueError, KeyError, TypeError):  # what no honest process says
            raise _unreadable(path, _NONSENSE) from None
    raise _killed(path)


def _unreadable(path: bytes, reason: str) -> TableUnreadable:
    return TableUnreadable(f"{shown(path)}: it cannot be read as a Parquet file ({reason})")


def _killed(path: bytes) -> ClassifyError:
    return ClassifyError(
        f"{shown(path)}: the process that reads it was killed {_TRIES} times; free memory, and go on with --resume"
    )


class TableReader:
    """Reads the pictures in a column of bytes. Rows that are asked for in their order are read once.

    Where a row group is damaged, the first row that cannot be read and the rest of the group are lost. Rows before it,
    and other groups, are not.

    Args:
        path: The Parquet file.
        column: The column.
        most_bytes: Largest cell.

    Raises:
        TableUnreadable: It cannot be read any more.
        ClassifyError: pyarrow is missing.
    """

    def __init__(self, path: bytes, column: str, most_bytes: int):
        self._path, self._column, self._most_bytes = path, column, most_bytes
        self._given_up = False
        self._process: _Process | None = _start(path, column, _ROWS, most_bytes)
        about = self._process.about
        if about.holds != "bytes":
            self.close()
            raise _unreadable(path, f"the column {column!r} holds no bytes any more")
        self._begins = [0, *accumulate(about.groups)]
        self._one_by_one: set[int] = set()
        self._damaged: dict[int, tuple[int, str]] = {}
        self._group = -1
        self._next = 0
        self._cells: list[bytes | int | None] = []

    def cell(self, row: int) -> bytes | None:
        """Return the bytes of a row, counted from 0. None for an empty cell.

        Raises:
            CellTooLarge: It is too large.
            CellUnreadable: The table is damaged there.
            ClassifyError: The system cannot read it now.
        """
        if not self._next - len(self._cells) <= row < self._next:
            self._read(row)
        cell = self._cells[row - self._next]
        if isinstance(cell, int):
            raise CellTooLarge(cell)
        return cell

    def give_up(self) -> None:
        """End all waits, at once. Any thread may call it."""
        self._given_up = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _read(self, row: int) -> None:
        """Read the cells around a row."""
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
            except _Failed as failed:
                self.close()
                self._cells = []
                if failed.killed:
                    killed += 1
                    if killed == _TRIES or self._given_up:
                        raise _killed(self._path) from None
                elif failed.answer is Answer.SYSTEM:
                    raise ClassifyError(
                        f"{shown(self._path)}: row {self._next} cannot be read ({failed.text}); mend that, and go on "
                        "with --resume"
                    ) from None
                elif group not in self._one_by_one:
                    # In a new process, row by row: what is lost then depends on nothing but the row group.
                    self._one_by_one.add(group)
                else:
                    self._damaged[group] = self._next, failed.text

    def _read_in_group(self, group: int, row: int) -> None:
        rows = 1 if group in self._one_by_one else _ROWS
        if self._process is not None and self._process.rows != rows:
            self.close()
        begin = CONTINUE
        if self._process is None:
            self._process = _start(self._path, self._column, rows, self._most_bytes)
            self._group = -1
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
    process = _start(path, column, _PATHS, _LONGEST_PATH)
    about = process.about
    if about.holds == "paths":
        return about.column, _path_items(process, path)
    process.close()
    return about.column, _byte_items(path, about.column, sum(about.groups))


def _path_items(process: _Process, table: bytes) -> Iterator[Item]:
    row = 0
    with closing(process):
        for cells in _all_cells(process, table):
            for cell in cells:
                if isinstance(cell, bytes) and cell and b"\0" not in cell:
                    yield Item(shown(cell), file=cell)
                else:
                    yield Item(f"{shown(table)}:{row}", missing="the cell holds no path")
                row += 1


def _all_cells(process: _Process, table: bytes) -> Iterator[list[bytes | int | None]]:
    for group, rows in enumerate(process.about.groups):
        done, begin = 0, group
        while done < rows:
            try:
                count, cells = process.read(begin, done)
            except _Failed as failed:
                raise ClassifyError(
                    f"{shown(table)}: the column {process.about.column!r} cannot be read ({failed.text}); write the "
                    "file anew"
                ) from None
            done, begin = done + count, CONTINUE
            yield cells


def _byte_items(table: bytes, column: str, rows: int) -> Iterator[Item]:
    name = shown(table)
    for row in range(rows):
        yield Item(f"{name}:{row}", table=table, column=column, row=row)


def can_be_opened(path: bytes, column: str) -> bool:
    """Return whether this machine can read a column of a Parquet file."""
    try:
        _start(path, column, _ROWS, 0).close()
    except ClassifyError:
        return False
    return True
