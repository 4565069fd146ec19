"""Read a column of a Parquet file in a confined process, which answers with a few rows at a time.

A small Parquet file may hold gigabytes, and a faulty one may crash its reader. Both end this process and no other.
table_connection.py starts it:

    python -m sgn_serve.classify.table_process SOCKET PARENT

The file is standard input. SOCKET is a number, PARENT the process id of what started it. table_messages.py has the
form of the orders and of the answers.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
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
from sgn_serve.common.parent_process import end_with_starting_thread
from sgn_serve.process import confinement

_BUFFER = 1 << 20
_USUAL = ("path", "file", "image")
"""Columns that are taken where none is named, the first that exists."""


class Refused(Exception):
    """The table cannot be used. The text names the fix."""


def describe(file: Any, column: str | None) -> dict[str, Any]:
    """Return the column that the inputs are in, what it holds, and the rows of each row group.

    Args:
        file: The pyarrow.parquet.ParquetFile.
        column: The column that was asked for. None takes `path`, `file` or `image`, or the only one.

    Raises:
        Refused: There is no such column, or it holds something else, or the table is damaged.
    """
    names = file.schema_arrow.names
    metadata = file.metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
        raise Refused("it is damaged, for its row groups have other rows than it has; write it anew")
    if column is None:
        column = next((name for name in _USUAL if name in names), names[0] if len(names) == 1 else None)
    if column is not None and names.count(column) > 1:
        raise Refused(f"it has several columns {column!r}; give each another name")
    if not names:
        raise Refused("it has no columns; write paths or pictures into one")
    if column is None or column not in names:
        wanted = "more than one column" if column is None else f"no column {column!r}"
        raise Refused(f"it has {wanted}; name one with --column: {', '.join(names)}")
    holds = _holds(file.schema_arrow.field(column).type)
    if holds is None:
        raise Refused(f"the column {column!r} holds neither paths nor bytes; name another one")
    return {"column": column, "holds": holds, "groups": groups}


def _holds(kind: Any) -> str | None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "paths"
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return "bytes" if any(test(kind) for test in tests) else None


class Rows:
    """Reads a column, a few rows at a time.

    Args:
        file: The pyarrow.parquet.ParquetFile.
        column: The column.
        rows: Rows to read at a time.
        most_bytes: Largest cell that is sent.
    """

    def __init__(self, file: Any, column: str, rows: int, most_bytes: int):
        self._file, self._column, self._rows, self._most_bytes = file, column, rows, most_bytes
        self._leaf = f"{column}.bytes" if hasattr(file.schema_arrow.field(column).type, "get_field_index") else column
        self._batches: Iterator[Any] = iter(())
        self._begin = 0

    def read(self, group: int, wanted: int) -> list[Any]:
        """Return the content of the next answer: bytes, and buffers of pyarrow's.

        Args:
            group: The row group to begin with, or CONTINUE.
            wanted: The row of the group that is wanted.

        Raises:
            Exception: pyarrow's and the system's errors, which share no base class.
        """
        if group != CONTINUE:
            self._begin = 0
            self._batches = self._file.iter_batches(
                batch_size=self._rows, row_groups=[group], columns=[self._leaf], use_threads=False
            )
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError("it has fewer rows than it says")
        cells = batch.column(self._column)  # the top-level column: a field of a record may have the same name
        self._begin += len(cells)
        parts: list[Any] = [COUNT.pack(len(cells))]
        for cell in cells if wanted < self._begin else ():
            content = _content(cell)
            if content is None:
                parts.append(CELL.pack(Cell.EMPTY, 0))
            elif len(content) > self._most_bytes:
                parts.append(CELL.pack(Cell.TOO_LARGE, len(content)))
            else:
                parts += [CELL.pack(Cell.CONTENT, len(content)), content]
        return parts


def _content(cell: Any) -> Any:
    """Return the buffer of a cell, None for an empty one."""
    import pyarrow

    if isinstance(cell, pyarrow.StructScalar):
        cell = cell["bytes"] if cell.is_valid else None
    if isinstance(cell, pyarrow.DictionaryScalar):
        cell = cell.value
    return cell.as_buffer() if cell is not None and cell.is_valid else None


def failure(error: Exception) -> tuple[Answer, bytes]:
    """Return the answer that tells an error."""
    if isinstance(error, Refused):
        kind, text = Answer.REFUSED, one_line(error, LONGEST_TEXT)
    else:
        text = one_line(error)
        kind = Answer.MEMORY if isinstance(error, MemoryError) or "bad_alloc" in text else Answer.FAILED
    return kind, text.encode("utf-8", "backslashreplace")


def serve(connection: socket.socket, rows: int, most_bytes: int, memory: int, column: str | None) -> None:
    """Confine this process, open standard input as a table, and answer orders until their end or the first failure.

    Args:
        connection: A blocking socket to the process that asks.
        rows: Rows to read at a time.
        most_bytes: Largest cell that is sent.
        memory: Address space in bytes that reading may take.
        column: See describe.

    Raises:
        Exception: It cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    pyarrow.default_memory_pool()  # its kind is in the environment
    os.environ.clear()

    def answer(kind: Answer, *parts: Any) -> None:
        length = sum(map(len, parts))
        head = HEAD.pack(kind, length)
        for part in (head, *parts) if length > _BUFFER else (b"".join([head, *parts]),):
            connection.sendall(part)

    answer(Answer.READY)
    with open(0, "rb", buffering=0) as file:
        confinement.be_ended_first()
        confinement.confine(memory, threads=True)
        _limit_time()
        table = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER, page_checksum_verification=True)
        about = describe(table, column)
        answer(Answer.TABLE, json.dumps(about).encode())
        reader = Rows(table, about["column"], rows, most_bytes)
        while order := receive(connection, ORDER.size):
            _limit_time()
            answer(Answer.CELLS, *reader.read(*ORDER.unpack(order)))


def _limit_time() -> None:
    """Have the kernel end this process after some more processor time, even in the middle of C++ code."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)


def main() -> None:
    """Serve what the first message says."""
    connection, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    end_with_starting_thread()
    if os.getppid() != parent:
        return  # it has ended before
    # The process that started it ends it. A signal to the whole group is not for it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(ConnectionError):  # nobody asks any more
        start = receive(connection, START.size)
        if start is None:
            return
        rows, most_bytes, memory, length = START.unpack(start)
        name = b"" if length == NO_COLUMN else receive(connection, length) or b""
        column = None if length == NO_COLUMN else name.decode("utf-8", "surrogateescape")
        try:
            serve(connection, rows, most_bytes, memory, column)
        except ConnectionError:
            raise
        except Exception as error:  # pyarrow's and the system's, which share no base class
            kind, text = failure(error)
            connection.sendall(HEAD.pack(kind, len(text)) + text)


if __name__ == "__main__":
    main()
