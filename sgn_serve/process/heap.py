"""Keep the memory that this process has freed from staying with it."""

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8
"""mallopt's number of the option. Source: glibc's malloc.h."""


def use_one_heap() -> None:
    """Have all threads that start from now on take memory from one heap. glibc only; elsewhere nothing happens.

    By default each of up to eight threads a core has a heap of its own, and each keeps what it once needed. Bodies are
    written to the disk in threads: under floods of files of 1 MB, the service grew by 25 MB that way, and by 3 MB with
    one heap.
    """
    if sys.platform.startswith("linux"):
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
