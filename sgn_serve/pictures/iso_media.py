"""Read from an AVIF or HEIC file, both of which are ISO base media files, which decoder it needs."""

import struct

_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_MOST_BRANDS = 64


def formats_of(start: bytes) -> tuple[str, ...] | None:
    """Return the formats that a file says it has, by Pillow's names; None if it is no such file.

    The first brand of some telephones' files, mif1, is that of both formats. The list after it says more.

    Args:
        start: The first bytes of the file, 300 or more if it has as many.
    """
    if start[4:8] != b"ftyp" or len(start) < 16:
        return None
    (size,) = struct.unpack_from(">L", start)
    listed = start[16 : min(size, 16 + 4 * _MOST_BRANDS)]
    brands = [start[8:12], *(listed[at : at + 4] for at in range(0, len(listed), 4))]
    found = tuple(name for name, own in (("AVIF", _AVIF), ("HEIF", _HEIF)) if any(brand in own for brand in brands))
    return found or None


def is_cropped(data: bytes) -> bool:
    """Return whether a file says that only a part of a picture is to be shown, which Pillow's AVIF decoder ignores.

    Args:
        data: The whole file.
    """
    at = 0
    while at + 16 <= len(data):
        size, name, long_size = struct.unpack_from(">L4sQ", data, at)
        size = {0: len(data) - at, 1: long_size}.get(size, size)
        if size < 8:
            return False
        # The items of a picture are described in the first, the tracks of a sequence in the second.
        if name in (b"meta", b"moov") and data.find(b"clap", at, at + size) >= 0:
            return True
        at += size
    return False
