"""Write files completely or not at all, so that a killed process or a full disk never costs the previous one."""

import contextlib
import errno
import os
import tempfile
import zipfile
from pathlib import Path

from training.common.errors import TrainingError

_FOLDER = 0x10
"""Bit of a ZIP entry's attributes that says it is a folder. torch.save never sets it."""


class WriteError(TrainingError):
    """A file could not be written. The message names it and the reason. Its previous content is still there."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> "WriteError":
        """Return the error for a path that the system refused to write, with a hint that fits the reason."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space on that disk" if full else "check that it can be written to"
        return cls(f"{path}: cannot be written ({error.strerror or error}); {hint}")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by one with this content, which is on the disk when this returns: write, fsync, rename.

    It takes the whole content at once, because libraries that write for themselves hide the reason of a failure.

    Raises:
        WriteError: The old file is untouched and nothing is left beside it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError.of(path, error) from None


def check_writable(path: Path) -> None:
    """Check that a file can be written, with the folders that it needs, and leave everything as it is.

    Raises:
        WriteError: It cannot.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError.of(path, error) from None


def damaged_part(path: Path) -> str:
    """Return the name of a part of torch.save's file that does not have its CRC-32, "" where all parts have theirs.

    torch.save writes a ZIP archive with a checksum a part, which torch.load does not look at. Files that are no such
    archive give "".
    """
    try:
        if not zipfile.is_zipfile(path):
            return ""
        with zipfile.ZipFile(path) as archive:
            # torch.load reads nothing for a folder, and leaves its tensor as the memory happens to be.
            folder = next((part.filename for part in archive.infolist() if part.external_attr & _FOLDER), "")
            return archive.testzip() or folder
    except OSError:
        return ""  # whoever reads the file says why it cannot be read
    except Exception:  # zipfile raises many kinds for an archive of another form than it says
        return "table of contents"


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that a renaming survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
