"""Start the confined process that reads a Parquet file (table_process.py), and check whatever it answers.

A file may have taken the process over. So every answer is checked, and none of them ends a run.
"""

import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from struct import error as StructError
from typing import Any

from sgn_serve.classify.table_messages import (
    CELL,
    CONTINUE,
    COUNT,
    CPU_SECONDS,
    HEAD,
    LONGEST_TEXT,
    NO_COLUMN,
    ORDER,
    START,
    Answer,
    Cell,
    receive,
)
from sgn_serve.common.error_text import one_line
from sgn_serve.process.bare_program import start_bare

MEMORY, MEMORY_A_BYTE, MOST_MEMORY = 1 << 30, 3, 7 << 30
"""Address space that reading may take: this, so much more for each byte of the file, and no more than that. A page is
in memory as it is in the file and unpacked. Writers pack large pictures into pages of up to a gigabyte or two."""
_USUAL_MEMORY = 1 << 30
"""Address space that a process with pyarrow has before it reads, and some more."""
_ROWS_A_BYTE = 1000
"""Rows that a file may have for each of its bytes. More of them are a footer that lies."""
_PATIENCE = 10.0
"""Timeout of an answer, as a multiple of its limit of processor time."""
_END_SECONDS = 5.0
"""Timeout of a process's end once it has closed its socket."""
_MALLOC = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
"""Has pyarrow take what it needs and no more: its own pools reserve a gigabyte of address space first."""
_NONSENSE = "its reader tells nothing that makes sense"
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""The system lacks something. The file is not to blame."""
_FROM_OUTSIDE = tuple(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

Content = bytes | int | None
"""A cell: its content, its length if it is too large, None if it is empty."""


class ReadingFailed(Exception):
    """The process cannot read, or has ended. The text says why.

    Attributes:
        is_refusal: Whether the table cannot be used as it is, so that the text names the fix.
        was_killed: Whether somebody else ended the process.
    """

    def __init__(self, text: str, is_refusal: bool = False, was_killed: bool = False):
        super().__init__(text)
        self.is_refusal = is_refusal
        self.was_killed = was_killed


class SystemShort(Exception):
    """The system lacks memory, processes or files. The text says what."""


@dataclass(frozen=True)
class About:
    """Tell what a table holds.

    Attributes:
        column: The column of the inputs.
        holds: "paths" or "bytes".
        groups: Rows of each row group.
    """

    column: str
    holds: str
    groups: list[int]


class TableProcess:
    """A confined process that reads a column. It has started once it is made, and open() waits for it.

    Args:
        file: Descriptor of the Parquet file. The caller closes it.
        column: The column. None takes a usual one.
        rows: Rows to read at a time.
        most_bytes: Largest cell that is sent.

    Attributes:
        rows: See above.

    Raises:
        SystemShort: The process cannot be started.
    """

    def __init__(self, file: int, column: str | None, rows: int, most_bytes: int):
        self.rows = rows
        self._column = column
        self._most_bytes = most_bytes
        self._groups: list[int] = []
        self._group = self._next = 0
        try:
            self._size = os.fstat(file).st_size
            self._memory = _memory(self._size)
            self._connection, far_end = socket.socketpair()
            with far_end:
                try:
                    self._program = _start_program(file, far_end)
                except BaseException:
                    self._connection.close()
                    raise
        except OSError as error:
            raise SystemShort(one_line(error)) from None
        self._connection.settimeout(_PATIENCE * CPU_SECONDS)

    def open(self) -> About:
        """Wait until the table is open, and return what it holds.

        Raises:
            ReadingFailed: It cannot be read.
            SystemShort: The process does not start, or the file does not come.
        """
        name = None if self._column is None else self._column.encode("utf-8", "surrogateescape")
        length = NO_COLUMN if name is None else len(name)
        self._send(START.pack(self.rows, self._most_bytes, self._memory, length) + (name or b""))
        try:
            self._answer(Answer.READY, 0)
        except ReadingFailed as failed:
            if failed.was_killed:
                raise
            raise SystemShort(f"the process that reads tables does not start: {failed}") from None
        about = _about(self._answer(Answer.TABLE, self._size))
        if about is None or self._column not in (None, about.column):
            raise ReadingFailed(_NONSENSE)
        if sum(about.groups) > _ROWS_A_BYTE * self._size:
            raise ReadingFailed(f"it says that it has {sum(about.groups)} rows, too many for {self._size} bytes")
        self._groups = about.groups
        return about

    def read(self, group: int, wanted: int) -> tuple[int, list[Content]]:
        """Return how many rows were read, and their cells if the wanted row is among them.

        Args:
            group: The row group to begin with, or CONTINUE.
            wanted: The row of the group that is wanted.

        Raises:
            ReadingFailed: They cannot be read.
            SystemShort: The file does not come.
        """
        if group != CONTINUE:
            self._group, self._next = group, 0
        self._send(ORDER.pack(group, wanted))
        most = COUNT.size + self.rows * (self._most_bytes + CELL.size)
        try:
            count, cells = _unpacked(self._answer(Answer.CELLS, most), self._most_bytes)
        except StructError:
            raise ReadingFailed(_NONSENSE) from None
        self._next += count
        is_there = 0 < count <= self.rows and self._next <= self._groups[self._group]
        if not is_there or len(cells) != (count if wanted < self._next else 0):
            raise ReadingFailed(_NONSENSE)
        return count, cells

    def kill(self) -> None:
        """End it at once. Any thread may call it."""
        self._program.kill()

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._program.kill()
        self._program.wait()

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # the answer tells
            self._connection.sendall(message)

    def _answer(self, wanted: Answer, most_bytes: int) -> bytearray:
        """Return the content of the next answer.

        Raises:
            ReadingFailed: It is of another kind or too long, or the process has ended.
            SystemShort: There is none.
        """
        content = None
        try:
            head = receive(self._connection, HEAD.size)
            if head is not None:
                kind, length = HEAD.unpack(head)
                if length > (most_bytes if kind == wanted else LONGEST_TEXT * 4):
                    raise ReadingFailed(_NONSENSE)
                content = receive(self._connection, length)
        except TimeoutError:  # it took little processor time, so it waits for the file
            raise SystemShort(f"no answer in {_PATIENCE * CPU_SECONDS:g} s") from None
        except ConnectionError:
            pass
        if content is None:
            raise self._ended()
        if kind == wanted:
            return content
        if kind == Answer.MEMORY:
            raise ReadingFailed(self._takes_too_much)
        if kind in (Answer.REFUSED, Answer.FAILED):
            raise ReadingFailed(_printable(content), is_refusal=kind == Answer.REFUSED)
        raise ReadingFailed(_NONSENSE)

    @property
    def _takes_too_much(self) -> str:
        return f"reading it takes more than {self._memory >> 20} MiB of memory"

    def _ended(self) -> ReadingFailed:
        self._connection.close()
        try:
            status = self._program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return ReadingFailed(_NONSENSE)
        if status == -signal.SIGPROF:
            return ReadingFailed(f"reading it takes more than {CPU_SECONDS:g} s")
        if status in _FROM_OUTSIDE:
            return ReadingFailed("its reader was killed, perhaps for want of memory", was_killed=True)
        # Many libraries crash where they get no memory.
        return ReadingFailed(f"its reader has crashed, or {self._takes_too_much}")


def shortage_of_memory(path: bytes) -> str:
    """Return how much memory the limit of this process leaves a table too little, "" where it suffices."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    size = os.stat(path).st_size if os.path.exists(path) else 0
    wanted = _memory(size) + _USUAL_MEMORY
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return ""
    return f"ulimit -v allows {limit >> 20} MiB, and it may take {wanted >> 20}"


def _memory(size: int) -> int:
    return min(MEMORY + MEMORY_A_BYTE * size, MOST_MEMORY)


def shortage(path: bytes) -> str:
    """Return what the system lacks to read a file, "" where the file itself is to blame.

    The system may give too little memory, or may not read the file's beginning and end now.
    """
    if reason := shortage_of_memory(path):
        return reason
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            for place in (0, max(0, os.fstat(file).st_size - 1)):
                os.pread(file, 1, place)
        finally:
            os.close(file)
    except OSError as error:
        return error.strerror or one_line(error)
    return ""


def open_table(path: bytes) -> int:
    """Return a descriptor of a Parquet file.

    Raises:
        ReadingFailed: It cannot be opened.
        SystemShort: The system lacks something.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _SHORT_OF:
            raise SystemShort(one_line(error)) from None
        raise ReadingFailed(error.strerror or one_line(error)) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ReadingFailed("it is no ordinary file")
    return file


def _start_program(file: int, far_end: socket.socket) -> "subprocess.Popen[bytes]":
    return start_bare(
        "sgn_serve.classify.table_process",
        [str(far_end.fileno()), str(os.getpid())],
        _MALLOC,
        pass_fds=[far_end.fileno()],
        stdin=file,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # C++ writes there as it ends, in the middle of a progress bar
    )


def _about(content: bytearray) -> About | None:
    """Return what a process tells of its table, None where it makes no sense."""
    try:
        told: Any = json.loads(content)
        column, holds, groups = told["column"], told["holds"], told["groups"]
        str(column).encode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError):
        return None
    makes_sense = isinstance(column, str) and holds in ("paths", "bytes") and isinstance(groups, list)
    if not makes_sense or any(type(rows) is not int or rows < 0 for rows in groups):
        return None
    return About(column, holds, groups)


def _unpacked(content: bytearray, most_bytes: int) -> tuple[int, list[Content]]:
    """Return the number of rows in an answer, and their cells.

    Raises:
        StructError: It makes no sense.
    """
    view = memoryview(content)
    (count,) = COUNT.unpack_from(view)
    cells: list[Content] = []
    place = COUNT.size
    while place < len(view):
        kind, length = CELL.unpack_from(view, place)
        place += CELL.size
        if kind == Cell.CONTENT and length <= min(most_bytes, len(view) - place):
            cells.append(bytes(view[place : place + length]))
            place += length
        elif kind == Cell.TOO_LARGE and length > most_bytes:
            cells.append(length)
        elif kind == Cell.EMPTY:
            cells.append(None)
        else:
            raise StructError
    return count, cells


def _printable(content: bytearray) -> str:
    text = " ".join(content.decode("utf-8", "replace")[:LONGEST_TEXT].split())
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
