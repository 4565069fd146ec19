"""Give memory that this process has freed back to the system."""

import asyncio
import ctypes
import gc
import resource
from pathlib import Path

EVERY_SECONDS = 1.0
"""Time between two looks. One takes 20 us, and giving memory back takes milliseconds."""
_GROWTH_BYTES = 16 << 20
_WORTH_BYTES = 4 << 20
_PAUSE = 3
"""Looks that are left out after one that gave back less than _WORTH_BYTES."""
_STATM = Path("/proc/self/statm")


class FreedMemory:
    """Gives memory back while the process is larger than it once was.

    glibc keeps the free pages between pieces that are in use. After some hundred connections with large bodies these
    were 30 to 60 MB.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        self._smallest = resident_bytes()
        self._pause = 0

    def keep_giving_back(self) -> None:
        """Look every second from now on, in the running event loop."""
        if self._trim is not None and self._smallest is not None:
            asyncio.get_running_loop().call_later(EVERY_SECONDS, self._tick)

    def _tick(self) -> None:
        self.look()
        self.keep_giving_back()

    def look(self) -> bool:
        """Give memory back if the process has much more than when it was smallest.

        Returns:
            Whether it did.
        """
        now = resident_bytes()
        if now is None or self._smallest is None or self._trim is None:
            return False
        self._smallest = min(self._smallest, now)
        if now < self._smallest + _GROWTH_BYTES:
            return False
        if self._pause:
            self._pause -= 1
            return False
        gc.collect()  # milliseconds: what is there for long is exempt (sgn_serve/process/garbage.py)
        self._trim(0)
        left = resident_bytes()
        if left is None:  # too many files are open
            return True
        self._smallest = min(self._smallest, left)
        self._pause = 0 if now - left >= _WORTH_BYTES else _PAUSE
        return True


def resident_bytes() -> int | None:
    """Return how much memory this process has, None where the system does not tell like Linux."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
