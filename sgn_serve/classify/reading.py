"""Read the files of pictures. Whatever is wrong with one of them becomes the error of its row."""

import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress

from sgn_serve.classify.items import Item, shown
from sgn_serve.classify.objects import AT_A_TIME, ObjectMissing, ObjectReader, ObjectTooLarge, is_object
from sgn_serve.classify.tables import CellTooLarge, CellUnreadable, TableReader, TableUnreadable

UNREADABLE = "unreadable_file"
"""Code of a row whose file cannot be read: it is gone, it is a folder, or its bytes do not come."""
DAMAGED_TABLE = "damaged_table"
"""Code of a row of a Parquet file that is damaged where the picture's bytes are."""
EMPTY = "empty_file"
TOO_LARGE = "body_too_large"
"""The code with which the server refuses a file of that size."""


class Unread(Exception):
    """There is no content to decode.

    Attributes:
        code: The error code of the row.
        message: Its message.
    """

    def __init__(self, code: str, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message


class Reader:
    """Reads items, one after another.

    Args:
        max_bytes: Largest file.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._table: TableReader | None = None  # the one that was read last: tables come one after another
        self._table_key = (b"", "")
        self._unreadable: dict[tuple[bytes, str], str] = {}
        self._changing = threading.Lock()
        self._given_up = False
        self._objects = ObjectReader(max_bytes)

    def read_some(self, items: Sequence[Item], enough_bytes: int) -> list[bytes | Unread]:
        """Return the contents of the first items: of one at least, and no more once they have enough bytes."""
        contents: list[bytes | Unread] = []
        total = 0
        objects = [item.file if item.file is not None and is_object(item.file) else None for item in items]
        any_objects = any(objects)
        for number, item in enumerate(items):
            if any_objects:
                self._objects.begin([one for one in objects[number : number + AT_A_TIME] if one is not None])
            try:
                content = self._read(item)
                total += len(content)
                contents.append(content)
            except Unread as error:
                contents.append(error)
            if total >= enough_bytes:
                break
        return contents

    def give_up(self) -> None:
        """End all waits for object stores and tables, at once. Any thread may call it."""
        self._objects.give_up()
        with self._changing:
            self._given_up = True
            if self._table is not None:
                self._table.give_up()

    def close(self) -> None:
        """Close the table, and end what reads objects."""
        if self._table is not None:
            self._table.close()
        self._objects.close()

    def _read(self, item: Item) -> bytes:
        if item.missing:
            raise Unread(UNREADABLE, item.missing)
        if item.content is not None:
            content = item.content
        elif item.file is not None:
            content = self._read_object(item.file) if is_object(item.file) else self._read_file(item.file)
        else:
            content = self._read_cell(item)
        if not content:
            raise Unread(EMPTY, "the file is empty")
        if len(content) > self._max_bytes:
            raise self._too_large(len(content))
        return content

    def _read_file(self, path: bytes) -> bytes:
        try:
            # A named pipe without a writer would keep an ordinary open waiting for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            raise _unreadable(error) from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
                raise Unread(UNREADABLE, f"it is {kind}")
            if found.st_size > self._max_bytes:
                raise self._too_large(found.st_size)
            content = os.read(descriptor, found.st_size)
            while len(content) < found.st_size:  # a signal, or a file that has become shorter
                part = os.read(descriptor, found.st_size - len(content))
                if not part:
                    break
                content += part
            return content
        except OSError as error:
            raise _unreadable(error) from None
        finally:
            with suppress(OSError):
                os.close(descriptor)

    def _read_object(self, address: bytes) -> bytes:
        try:
            return self._objects.read(address)
        except ObjectMissing as error:
            raise Unread(UNREADABLE, str(error)) from None
        except ObjectTooLarge as error:
            raise self._too_large(error.length) from None

    def _read_cell(self, item: Item) -> bytes:
        assert item.table is not None, "an item has one of the three"
        key = (item.table, item.column)
        if key in self._unreadable:
            raise Unread(UNREADABLE, self._unreadable[key])
        try:
            content = self._table_of(key).cell(item.row)
        except TableUnreadable as error:
            self._unreadable[key] = str(error)
            raise Unread(UNREADABLE, str(error)) from None
        except CellUnreadable as error:
            raise Unread(DAMAGED_TABLE, str(error)) from None
        except CellTooLarge as error:
            raise self._too_large(error.length) from None
        if content is None:
            raise Unread(EMPTY, "the cell is empty")
        return content

    def _table_of(self, key: tuple[bytes, str]) -> TableReader:
        if self._table is not None and self._table_key == key:
            return self._table
        if self._table is not None:
            self._table.close()
        table = TableReader(*key, self._max_bytes)
        with self._changing:
            self._table, self._table_key = table, key
            if self._given_up:
                table.give_up()
        if table.open().holds != "bytes":
            raise TableUnreadable(f"{shown(key[0])}: the column {key[1]!r} holds no pictures any more")
        return table

    def _too_large(self, length: int) -> Unread:
        return Unread(
            TOO_LARGE, f"the file has {length} bytes, more than {self._max_bytes}; SGN_MAX_BYTES raises the limit"
        )


def _unreadable(error: Exception) -> Unread:
    reason = error.strerror if isinstance(error, OSError) else None
    return Unread(UNREADABLE, f"the file cannot be read ({reason or error})")
