"""What the header of a JPEG file tells of the memory and time that its decoder will take."""

from dataclasses import dataclass

_SCAN = 0xDA
_EXIF = 0xE1
_ALONE = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF}
"""Second bytes after which there is no segment: stuffing and markers without a length."""
_MOST_SEGMENTS = 100_000


@dataclass(frozen=True)
class Header:
    """What comes before the pixels.

    exif_bytes: of all EXIF segments, which readers join
    first_scan: where its marker is; 0 if none was found
    components: colour components in it. Fewer than the picture's: its decoder has to keep all of them until the end
    """

    exif_bytes: int
    first_scan: int
    components: int


def read_header(data: bytes) -> Header:
    """Reads it from the whole file, up to the first scan or the point where it makes no sense any more."""
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
