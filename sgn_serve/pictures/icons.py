"""Read the largest picture of an ICO file. Pillow decodes it before its size can be looked at, and misreads its alpha.

Each picture is a whole PNG file, or a bitmap without its file header. A bitmap is twice as high as it says to be. Below
the pixels lies a mask of one bit a pixel, 1 where nothing is seen.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile

from sgn_serve.pictures import png_chunks
from sgn_serve.pictures.errors import DamagedImage, UnsupportedPixels

SIGNATURE = b"\0\0\1\0"
_ENTRY = 16
_BITMAP = 40
"""Bytes of a bitmap's header."""
_RAW = 0


@dataclass(frozen=True)
class _Icon:
    """One picture of the file.

    Attributes:
        width: Pixels.
        height: Pixels.
        bits: A pixel's, 32 for a PNG.
        data: A PNG file, or a bitmap.
    """

    width: int
    height: int
    bits: int
    data: bytes

    @property
    def rank(self) -> tuple[int, int]:
        """Pixels, then bits a pixel: the larger, the better."""
        return self.width * self.height, self.bits


def largest(data: bytes) -> bytes:
    """Return the largest picture of an ICO file, and of the largest the one with the most colours.

    Args:
        data: The whole file.

    Returns:
        A PNG file, or a bitmap for IconBitmap.

    Raises:
        DamagedImage: No picture lies within the file.
    """
    (count,) = struct.unpack_from("<H", data, 4) if len(data) >= 6 else (0,)
    found: _Icon | None = None
    for at in range(6, min(6 + count * _ENTRY, len(data) - _ENTRY + 1), _ENTRY):
        size, offset = struct.unpack_from("<LL", data, at + 8)
        icon = _read(data[offset : offset + size])
        if icon is not None and (found is None or icon.rank > found.rank):
            found = icon
    if found is None:
        raise DamagedImage("the ICO file holds no whole picture")
    return found.data


def _read(data: bytes) -> _Icon | None:
    if data.startswith(png_chunks.SIGNATURE) and len(data) >= 24:
        width, height = struct.unpack_from(">LL", data, 16)
        return _Icon(width, height, 32, data)
    if len(data) < _BITMAP or data[:4] != struct.pack("<L", _BITMAP):
        return None
    width, height, _, bits = struct.unpack_from("<llHH", data, 4)
    return _Icon(width, height // 2, bits, data) if width > 0 and height > 1 else None


class IconBitmap(BmpImagePlugin.DibImageFile):
    """A bitmap of an ICO file, with its mask as alpha."""

    format = "ICO"
    format_description = "Windows Icon"

    def _open(self) -> None:
        super()._open()
        file: Any = self.fp
        file.seek(14)
        bits, compression = struct.unpack("<HL", file.read(6))
        if compression != _RAW:
            raise UnsupportedPixels("the ICO picture is compressed in a way that is not read; save it as PNG")
        width, height = self.size[0], self.size[1] // 2
        self._size = (width, height)
        codec, _, offset, args = self.tile[0]
        stride = (width * bits + 31) // 32 * 4
        if bits == 32:
            self._mode, args = "RGBA", ("BGRA", stride, -1)
        self.tile = [ImageFile._Tile(codec, (0, 0, width, height), offset, args)]
        self._mask = offset + stride * height

    def load_end(self) -> None:
        """Put the mask into the alpha channel, unless the pixels have an alpha of their own."""
        if self.mode == "RGBA" and self.im.getband(3).getbbox() is not None:
            return
        alpha = self._read_mask()
        if alpha is None:
            return
        layer = Image.Image.convert(self, "RGB").convert("RGBA")
        layer.putalpha(Image.fromarray(alpha))
        self.im, self._mode = layer.im, "RGBA"

    def _read_mask(self) -> np.ndarray | None:
        """Return the mask as alpha; None where pixels with 32 bits come without one."""
        file: Any = self.fp
        width, height = self.size
        stride = (width + 31) // 32 * 4
        file.seek(self._mask)
        rows = file.read(stride * height)
        if len(rows) < stride * height:
            if self.mode == "RGBA":
                return None
            raise OSError("its mask is cut off")
        bits = np.unpackbits(np.frombuffer(rows, np.uint8).reshape(height, stride), axis=1)[::-1, :width]
        return (1 - bits) * np.uint8(255)
