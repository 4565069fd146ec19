"""Make what is left of a limit of memory the same in every process."""

import ctypes

_BLOCK_BYTES = 1 << 19
"""Less than what glibc takes from the system by itself."""
_MOST_BLOCKS = 16
_SLACK_BYTES = 4096


class _Figures(ctypes.Structure):
    """glibc's struct mallinfo2. The end of the heap that is free is its last figure."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks"),
            "keepcost",
        )
    ]


def fill_heap() -> int:
    """Take the free end of this process's heap, and never give it back. The pages in it are not touched.

    The heap begins at a random address, and ends at a multiple of 2 MiB where glibc asks for huge pages. So up to 2 MiB
    are free at its end, more in one run and less in the next. A limit of memory that counts from the present size
    does not count them. Without them, a picture fits into all new processes or into none.

    Returns:
        Bytes that are still free there, 0 where the C library does not tell: others than glibc 2.33 and later.
    """
    library = ctypes.CDLL(None)
    look = getattr(library, "mallinfo2", None)
    if look is None:
        return 0
    look.restype = _Figures
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    for _ in range(_MOST_BLOCKS):
        free = int(look().keepcost)
        if free <= _SLACK_BYTES:
            break
        library.malloc(min(free - _SLACK_BYTES // 2, _BLOCK_BYTES))
    return int(look().keepcost)
