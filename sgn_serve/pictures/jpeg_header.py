"""Read the header of a JPEG file: how much memory and time its decoder will take."""

from dataclasses import dataclass

_SCAN = 0xDA
_EXIF = 0xE1
_ALONE = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF}
"""Second bytes of markers without a segment: byte stuffing, and markers that have no length."""
_MOST_SEGMENTS = 100_000


@dataclass(frozen=True)
class Header:
    """Facts from the header of a JPEG, which precedes the pixels.

    Attributes:
        exif_bytes: Bytes of all EXIF segments together; readers join them.
        first_scan: Position of the first scan's marker, 0 if there is none.
        components: Colour components in the first scan. If the picture has more, its decoder has to keep the
            coefficients of all scans until the last one.
    """

    exif_bytes: int
    first_scan: int
    components: int


def read_header(data: bytes) -> Header:
    """Read the header from a whole file.

    Reading ends at the first scan, or where the file is no longer a sequence of segments.

    Args:
        data: The whole file.
    """
    at, exif_bytes = 0, 0
    for _ in range(_MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 5 > len(data):
            break
        marker = data[at + 1]
        if marker == _SCAN:
            return Header(exif_bytes, at, data[at + 4])
        if marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker == _EXIF and data.startswith(b"Exif", at + 4):
            exif_bytes += length
        at += 2 + max(length, 2)
    return Header(exif_bytes, 0, 0)
