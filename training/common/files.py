"""Files that are written whole or not at all, so that a killed process or a full disk never costs the previous one."""

import contextlib
import errno
import hashlib
import os
from pathlib import Path


class WriteError(RuntimeError):
    """A file that could not be written; the message names it and says why. What it held before is still there."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> "WriteError":
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space on that disk" if full else "see that it can be written to"
        return cls(f"{path}: cannot be written ({error.strerror or error}); {hint}")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replaces `path` by a file that holds `content` and is on the disk when this returns: write, fsync, rename.

    Takes all of the content at once because libraries that write for themselves hide the reason of a failure.
    raises WriteError, with the old file untouched and nothing left beside it
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


def _sync_folder(folder: Path) -> None:
    """Puts the renaming itself on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
