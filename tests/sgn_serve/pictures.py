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


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow does not write: 16-bit colour, or more pixels than there is data for.

    depth:       bits a channel
    colour:      PNG's colour type: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA
    rows:        each row with its filter byte, uncompressed
    transparent: content of a tRNS chunk
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
        if data or name != b"tRNS"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)
