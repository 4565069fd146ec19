"""Keep an array in a file on the disk, for pictures that would fill the memory."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.common.devices import gib

FOLDER = Path("runs")
"""Folder of the files. A temporary folder of the system may be in memory itself."""


class FileSpaceError(Exception):
    """The disk cannot hold an array. The message says so in a half-sentence."""


def in_mapped_file(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a writable array of zeros whose bytes are in a file without a name.

    The kernel keeps in memory what is read often, and drops the rest. The file goes with the last use of the array,
    also when the process is killed.

    Args:
        shape: Its shape.

    Raises:
        FileSpaceError: The disk has no room, or FOLDER cannot be written to.
    """
    size = int(np.prod(shape, dtype=np.int64))
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(FOLDER).free
        if size > free:
            raise FileSpaceError(f"{gib(free)} on the disk of {FOLDER}/")
        with tempfile.TemporaryFile(dir=FOLDER) as file:
            # Reserved now: a disk that gets full later would kill the process at a write to the mapping.
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise FileSpaceError(f"{FOLDER}/ takes no file of {gib(size)} ({error.strerror})") from None
