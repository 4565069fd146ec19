"""Messages between a process that wants the rows of a Parquet file and the confined one that reads them.

A file may have taken the reading process over. So nothing here is unpickled, and lengths are checked.
"""

import socket
from enum import IntEnum
from struct import Struct

_PART = 1 << 20
CPU_SECONDS = 60.0
"""Processor time that some rows may take."""
START = Struct("<QQQq")
"""First message: rows to read at a time, largest cell to send and address space that reading may take, both in bytes.
Last comes the length of the column's name, which follows, or NO_COLUMN."""
NO_COLUMN = -1
HEAD = Struct("<BQ")
"""Head of every answer: its kind, and the length of its content in bytes."""
ORDER = Struct("<qQ")
"""Order to read some rows: the row group to begin with or CONTINUE, and the row of the group that is wanted."""
CONTINUE = -1
COUNT = Struct("<Q")
"""Head of the content of CELLS: the number of rows that were read. They are left out if the wanted row is behind."""
LONGEST_TEXT = 4000
"""Most characters of an error."""
CELL = Struct("<BQ")
"""Head of a cell: its kind, and its length in bytes."""


class Answer(IntEnum):
    """Kinds of answers. An error is followed by its text, in UTF-8.

    Attributes:
        READY: The process has started, and looks at the file now.
        TABLE: The file is open. JSON tells the column, what it holds ("paths" or "bytes"), and the rows of each group.
        CELLS: Some rows.
        REFUSED: The table cannot be used. The text names the fix.
        FAILED: It cannot be read.
        MEMORY: Reading takes more memory than allowed.
    """

    READY = 0
    TABLE = 1
    CELLS = 2
    REFUSED = 3
    FAILED = 4
    MEMORY = 5


class Cell(IntEnum):
    """Kinds of cells. Only CONTENT is followed by its bytes."""

    CONTENT = 0
    EMPTY = 1
    TOO_LARGE = 2


def receive(connection: socket.socket, length: int) -> bytearray | None:
    """Return that many bytes, None if the connection is closed before.

    Args:
        connection: A blocking socket.
        length: Number of bytes.
    """
    content = bytearray()  # it grows by what has come, and not by what a length says
    while len(content) < length:
        part = connection.recv(min(length - len(content), _PART))
        if not part:
            return None
        content += part
    return content
