"""Read from an animated WebP which part of its canvas the first frame covers."""

import struct
from typing import IO

_MOST_CHUNKS = 1000
_HEADER = 12
_FRAME = 12
"""Bytes that say where a frame lies: four numbers of 24 bits, in steps of two pixels and less one."""


def first_frame(file: IO[bytes]) -> tuple[int, int, int, int] | None:
    """Return the left, top, right and bottom of an animation's first frame in pixels, None if there is none.

    Args:
        file: The file. It is left where it was.
    """
    position = file.tell()
    try:
        file.seek(_HEADER)
        for _ in range(_MOST_CHUNKS):
            chunk = file.read(8)
            if len(chunk) < 8 or chunk[:4] in (b"VP8 ", b"VP8L"):
                return None
            (size,) = struct.unpack_from("<L", chunk, 4)
            if chunk[:4] == b"ANMF":
                numbers = file.read(_FRAME)
                if len(numbers) < _FRAME:
                    return None
                left, top, width, height = (int.from_bytes(numbers[at : at + 3], "little") for at in range(0, 12, 3))
                return 2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1
            file.seek(size + size % 2, 1)
        return None
    finally:
        file.seek(position)
