"""Make picture files in memory."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from release.hostile.seeds import tiff
from release.hostile.structures import png_chunk


def encode(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def noise(height: int = 8, width: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """Return random RGB, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """Write a PNG that Pillow cannot write: with 16-bit colour, or with more pixels than data.

    Args:
        width: Pixels, as the header says.
        height: Pixels, as the header says.
        depth: Bits a channel.
        colour: PNG's colour type: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA.
        rows: Each row with its filter byte, uncompressed.
        transparent: Content of a tRNS chunk.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = [png_chunk(name, data) for name, data in chunks if data or name != b"tRNS"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


TIFF_DATA = 8
"""Offset at which tiff() puts its data."""


def tiled(width: int, height: int, tile: tuple[int, int], encoded: bytes, **tags: Any) -> bytes:
    """Write a deflated 8-bit grey TIFF in which all tiles share the same data.

    Args:
        width: Pixels of the picture.
        height: Pixels of the picture.
        tile: Width and height of a tile.
        encoded: Deflated pixels of a tile.
        tags: Further tags by number, such as t277=3.
    """
    count = -(-width // tile[0]) * -(-height // tile[1])
    ordinary = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 322: tile[0], 323: tile[1]}
    places = {324: [TIFF_DATA] * count, 325: [len(encoded)] * count}
    return tiff(encoded, ordinary | places | {int(tag[1:]): value for tag, value in tags.items()})


def odd_exif(tag: int) -> bytes:
    """Return a JPEG with a text in its EXIF that is longer than the file. Pillow warns when it reads it."""
    return encode(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0" + tiff(b"", {tag: (2, 9999, TIFF_DATA)}))


def first_scans(progressive: bytes, scans: int) -> bytes:
    """Return a progressive JPEG cut off after its first scans, which lack details."""
    at = -1
    for _ in range(scans + 1):
        at = progressive.index(b"\xff\xda", at + 1)
    return progressive[:at] + b"\xff\xd9"


def exif_of_rationals(tag: int, count: int) -> bytes:
    """Return EXIF with many values in one tag, without the name that EXIF starts with in a JPEG."""
    return tiff(bytes(8 * count), {tag: (5, count, TIFF_DATA), 296: 2})


def jpeg_segments(marker: int, contents: list[bytes]) -> bytes:
    """Return segments of a JPEG's header."""
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for content in contents)
