"""Read a JPEG file whose last marker is missing, as every viewer does."""

import hashlib
import random
from io import BytesIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

START = b"\xff\xd8"
_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_RESTARTS = tuple(bytes([0xFF, 0xD0 + number]) for number in range(8))
_ALONE = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE), 0xFF}
"""Second bytes of markers without a segment: byte stuffing, and markers that have no length."""
_MOST_SEGMENTS = 100_000
_COEFFICIENTS = 64
_NOISE = bytes(1 + value % 253 for value in random.Random(0).randbytes(256))
"""Bytes without a marker, as if pixels went on."""
_ROWS = 256
_HALVED_PIXELS = 1_000_000
"""A picture with more pixels is decoded at half its size here, which takes a third of the time."""


def first_scan(data: bytes) -> int:
    """Return the position of the first scan's marker; 0 where the file is no sequence of segments that leads to one.

    Args:
        data: The whole file.
    """
    at = 0
    for _ in range(_MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 5 > len(data):
            break
        marker = data[at : at + 2]
        if marker == _SCAN:
            return at
        if marker[1] in _ALONE:
            at += 1 if marker[1] == 0xFF else 2
            continue
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
    return 0


def with_end(data: bytes, first_scan: int) -> bytes | None:
    """Return a JPEG file with the marker that ends it; None if it has one.

    Args:
        data: The whole file.
        first_scan: Result of the function first_scan. The end of a thumbnail may stand before it.
    """
    if not first_scan or data.rfind(_END, first_scan) >= 0:  # it mostly stands last
        return None
    return data + (_END[1:] if data.endswith(_END[:1]) else _END)


def is_whole(ended: bytes, first_scan: int) -> bool:
    """Return whether nothing but the end is missing.

    Where pixels are missing, libjpeg decodes what follows in their place. So the picture is decoded twice, with noise
    and with its complement behind it: a whole one ignores both. The noise has every restart marker, because libjpeg
    passes over what precedes the one it expects. The scans have to cover all bits of all coefficients too.

    A large picture is decoded at half its size. Its highest frequencies then have no say. If nothing but some bits of
    these is missing, it passes for a whole one. These are of its last blocks, or, in a progressive picture, of its last
    scan.

    Args:
        ended: Result of with_end.
        first_scan: See with_end.

    Raises:
        Exception: Pillow finds broken pixels; it may be of any kind.
    """
    pixels = ended[: -len(_END)]
    number = (pixels[max(map(pixels.rfind, _RESTARTS)) + 1] - 0xCF) % 8 if any(map(pixels.count, _RESTARTS)) else 0
    with Image.open(BytesIO(ended), formats=("JPEG",)) as picture:
        assert isinstance(picture, JpegImageFile)
        if not _covers_all(ended, first_scan, len(picture.layer)):
            return False
    return len({_fingerprint(pixels + _noise(number, flip) + _END) for flip in (0x00, 0xFF)}) == 1


def _noise(number: int, flip: int) -> bytes:
    """Return noise, then the restart marker of this number, and so on until all eight have stood there twice."""
    part = bytes(value ^ flip for value in _NOISE)
    return b"".join(part + _RESTARTS[(number + step) % 8] for step in range(16)) + part


def _fingerprint(data: bytes) -> bytes:
    """Return a hash of a picture's pixels."""
    digest = hashlib.blake2b()
    with Image.open(BytesIO(data), formats=("JPEG",)) as picture:
        if picture.width * picture.height > _HALVED_PIXELS:
            picture.draft(None, (max(1, picture.width // 2), max(1, picture.height // 2)))
        picture.load()
        for top in range(0, picture.height, _ROWS):
            digest.update(picture.crop((0, top, picture.width, min(top + _ROWS, picture.height))).tobytes())
    return digest.digest()


def _covers_all(data: bytes, first_scan: int, components: int) -> bool:
    """Return whether the scans hold every bit of every coefficient of so many components."""
    missing: dict[int, set[int]] = {}
    at = first_scan
    while at >= 0:
        count = data[at + 4]
        start, stop, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        for index in range(count):
            left = missing.setdefault(data[at + 5 + 2 * index], set(range(_COEFFICIENTS)))
            if bits & 0x0F == 0:
                left -= set(range(start, stop + 1))
        at = data.find(_SCAN, at + 2)
    return len(missing) == components and not any(missing.values())
