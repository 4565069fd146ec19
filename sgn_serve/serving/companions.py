"""Read a file that stands beside a graph: its figures or its examples."""

import stat
from pathlib import Path


def read_companion(path: Path, most_bytes: int) -> bytes:
    """Return what a file beside a graph holds.

    Args:
        path: The file.
        most_bytes: Bytes that it may have.

    Raises:
        OSError: It is not there, or cannot be read.
        ValueError: It is no ordinary file, or has more bytes.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no ordinary file")
    if found.st_size > most_bytes:
        raise ValueError(f"it has more than {most_bytes} bytes")
    return path.read_bytes()
