"""Read from an AVIF or HEIC file, both of which are ISO base media files, which decoder it needs."""

import struct

_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_MOST_BRANDS = 64
# The boxes that lead to the properties of a picture (in meta) and to those of a sequence's track (in moov).
# Each value is the number of bytes that such a box has before the boxes in it.
# Source: ISO/IEC 14496-12, sections 4.2, 8.5.2, 8.11.14 and 12.1.3.
_CONTAINERS = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
    b"stsd": 8,
    b"av01": 78,
}


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
    inside = [(0, len(data))]
    while inside:
        at, end = inside.pop()
        while at + 8 <= end:
            size, name = struct.unpack_from(">L4s", data, at)
            header = 16 if size == 1 else 8
            if size == 1 and at + 16 <= end:
                (size,) = struct.unpack_from(">Q", data, at + 8)
            elif size == 0:
                size = end - at
            if size < header:
                break
            if name == b"clap":
                return True
            if name in _CONTAINERS:
                inside.append((at + header + _CONTAINERS[name], min(at + size, end)))
            at += size
    return False
