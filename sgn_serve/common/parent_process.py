"""Have the kernel end a process with the one that started it."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Source: <linux/prctl.h>."""


def end_with_starting_thread() -> bool:
    """Have the kernel end this process as soon as the thread that started it has ended. Linux only.

    Returns:
        Whether it does.
    """
    if not sys.platform.startswith("linux"):
        return False
    numbers = [ctypes.c_ulong(number) for number in (signal.SIGKILL, 0, 0, 0)]
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, *numbers) == 0)
