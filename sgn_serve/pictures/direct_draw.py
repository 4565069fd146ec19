"""Refuse DDS files that are no picture or whose pixels have no known black and white, and heed what they say of alpha.

Source: Microsoft, Programming guide for DDS, and the reference of DDS_HEADER_DXT10.
"""

import struct
from typing import Any

from sgn_serve.pictures.errors import UnsupportedPixels

SIGNATURE = b"DDS "
_PIXEL_FLAGS, _FOUR_LETTERS, _CAPS2, _EXTENSION = 80, 84, 112, 128
_CUBE_OR_VOLUME = 0xFE00 | 0x200000
_THREE_DIMENSIONS, _CUBE = 4, 4
_STRAIGHT, _PREMULTIPLIED, _OPAQUE = 1, 2, 3
_HAS_LETTERS = 4
_SIGNED_OR_FLOAT = ("BC5S", "BC6H", "BC6HS")


def correct(picture: Any, data: bytes) -> bool:
    """Check an opened DDS.

    Args:
        picture: Opened by Pillow and not decoded yet.
        data: The first bytes of the file, 148 or more if it has as many.

    Returns:
        Whether its alpha channel means nothing.

    Raises:
        UnsupportedPixels: It has several surfaces, or its pixels are signed, floating-point or premultiplied.
    """
    (flags,), (letters,) = struct.unpack_from("<L", data, _PIXEL_FLAGS), struct.unpack_from("<4s", data, _FOUR_LETTERS)
    (caps2,) = struct.unpack_from("<L", data, _CAPS2)
    dimensions = extra = alpha = 0
    if flags & _HAS_LETTERS and letters == b"DX10" and len(data) >= _EXTENSION + 20:
        _, dimensions, extra, _, alpha = struct.unpack_from("<5L", data, _EXTENSION)
    if caps2 & _CUBE_OR_VOLUME or dimensions == _THREE_DIMENSIONS or extra & _CUBE:
        raise UnsupportedPixels("the DDS file is a cube or a volume instead of a picture")
    if getattr(picture, "pixel_format", "") in _SIGNED_OR_FLOAT:
        raise UnsupportedPixels(
            "the DDS picture has signed or floating-point pixels, whose black and white are unknown; save it as BC1 to "
            "BC3 or BC7"
        )
    if alpha & 7 > _STRAIGHT and alpha & 7 != _OPAQUE:
        raise UnsupportedPixels("the DDS picture's alpha is premultiplied or no alpha; save it with straight alpha")
    tile = picture.tile[0]
    if tile[0].endswith("dds_rgb"):
        bits, masks = tile[3]
        if bits not in (8, 16, 24, 32) or 0 in masks[:3]:
            raise UnsupportedPixels(
                f"the DDS picture has {bits} bits a pixel, of kinds that are not read; save it anew"
            )
        return len(masks) == 4 and masks[3] == 0
    return alpha & 7 == _OPAQUE and picture.mode == "RGBA"
