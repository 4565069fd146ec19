"""Picture files made in memory."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def noise(height: int = 8, width: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) of random RGB"""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """One of a PNG's chunks."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow does not write: 16-bit colour, or more pixels than there is data for.

    depth:       bits a channel
    colour:      PNG's colour type: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA
    rows:        each row with its filter byte, uncompressed
    transparent: content of a tRNS chunk
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = [png_chunk(name, data) for name, data in chunks if data or name != b"tRNS"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


TIFF_DATA = 8
"""Where tiff() puts its data."""


def tiff(data: bytes, tags: dict[int, Any], order: str = "<") -> bytes:
    """A TIFF written by hand, for what Pillow does not write: tiles, and tags that are wrong.

    data:  strips, tiles, or what else tags point to; at TIFF_DATA
    tags:  a number, several, or (type, count, value or offset), which is written as it is
    order: "<" little-endian, ">" big-endian
    """
    start = TIFF_DATA + len(data) + len(data) % 2
    beyond = start + 2 + 12 * len(tags) + 4
    entries, outside = b"", b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, tuple):
            kind, count, field = value
            entries += struct.pack(f"{order}HHLL", tag, kind, count, field)
            continue
        values = value if isinstance(value, list) else [value]
        kind, code = (3, "H") if max(values) < 65536 else (4, "L")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            outside, packed = outside + packed, struct.pack(f"{order}L", beyond + len(outside))
        entries += struct.pack(f"{order}HHL", tag, kind, len(values)) + packed.ljust(4, b"\0")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HL", 42, start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (header + data).ljust(start, b"\0") + directory + outside


def tiled(width: int, height: int, tile: tuple[int, int], encoded: bytes, **tags: Any) -> bytes:
    """A deflated 8-bit grey TIFF, all of whose tiles are the same.

    tile:    its width and height
    encoded: its pixels, deflated
    tags:    others by number, such as t277=3
    """
    count = -(-width // tile[0]) * -(-height // tile[1])
    ordinary = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 322: tile[0], 323: tile[1]}
    places = {324: [TIFF_DATA] * count, 325: [len(encoded)] * count}
    return tiff(encoded, ordinary | places | {int(tag[1:]): value for tag, value in tags.items()})


def odd_exif(tag: int) -> bytes:
    """A JPEG in whose EXIF a text is longer than the file, of which Pillow warns as it reads it."""
    return encode(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0" + tiff(b"", {tag: (2, 9999, TIFF_DATA)}))


def first_scans(progressive: bytes, scans: int) -> bytes:
    """A progressive JPEG of fewer scans, which leave out details."""
    at = -1
    for _ in range(scans + 1):
        at = progressive.index(b"\xff\xda", at + 1)
    return progressive[:at] + b"\xff\xd9"


def exif_of_rationals(tag: int, count: int) -> bytes:
    """EXIF one of whose tags has many values; without the name that starts it in a JPEG."""
    return tiff(bytes(8 * count), {tag: (5, count, TIFF_DATA), 296: 2})


def jpeg_segments(marker: int, contents: list[bytes]) -> bytes:
    """Segments for a JPEG's header."""
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for content in contents)
