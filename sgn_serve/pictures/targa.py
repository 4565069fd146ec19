"""Have TGA pictures decoded rightly, or refuse them. Pillow passes over what their header says about alpha."""

import struct
from typing import Any

from PIL import Image, ImagePalette

from sgn_serve.pictures.errors import UnsupportedPixels

_HEADER = 18
_FOOTER = 26
_PALETTE, _COLOUR, _GREY = 1, 2, 3
_KINDS = {(_PALETTE, 8), (_COLOUR, 16), (_COLOUR, 24), (_COLOUR, 32), (_GREY, 1), (_GREY, 8), (_GREY, 16)}
"""Kinds of picture and bits of a pixel, run-length encoded or not."""
_MARK = b"TRUEVISION-XFILE.\0"
_ALPHA_KIND = 494
"""Place in the extension area of the byte that says what alpha means."""
_MEANINGLESS = (0, 1, 2)
_STRAIGHT = 3
_FIVE_BITS = "BGR;15"
_FLAT = "flat"


def is_targa(data: bytes) -> bool:
    """Return whether a file may be a TGA. It has no signature, so every field of its header has to make sense.

    Args:
        data: The whole file.
    """
    if len(data) < _HEADER:
        return False
    kind, bits, flags = data[2], data[16], data[17]
    mapped, colours, map_bits = data[1], int.from_bytes(data[5:7], "little"), data[7]
    return (
        kind & ~8 in (_PALETTE, _COLOUR, _GREY)
        and (kind & 7, bits) in _KINDS
        and mapped <= 1
        and flags < 0x40
        and (kind & 7 != _PALETTE or (mapped == 1 and 0 < colours <= 256))
        and (not mapped or map_bits in (15, 16, 24, 32))
        and 0 not in struct.unpack_from("<HH", data, 12)
    )


def correct(picture: Any, data: bytes) -> bool:
    """Correct how an opened TGA will be decoded.

    Args:
        picture: Opened by Pillow and not decoded yet.
        data: The whole file.

    Returns:
        Whether its alpha channel means nothing.

    Raises:
        UnsupportedPixels: Programs read its alpha differently.
    """
    kind, bits, map_bits, alpha_bits = data[2] & 7, data[16], data[7], data[17] & 0x0F
    meaning = _alpha_kind(data)
    if kind == _GREY and bits == 16 and alpha_bits != 8:
        raise UnsupportedPixels("the TGA picture has 16 bits of grey a pixel; save it with 8, or as PNG")
    if 16 in (bits, map_bits) and kind != _GREY:
        if alpha_bits and meaning not in _MEANINGLESS:
            raise UnsupportedPixels(
                "the TGA picture has one bit of alpha, which programs read differently; save it with 32 bits a pixel"
            )
        if kind == _COLOUR and bits == 16:
            codec, extents, offset, args = picture.tile[0]
            picture._mode = "RGB"
            picture.tile = [type(picture.tile[0])(codec, extents, offset, (_FIVE_BITS, *args[1:]))]
        if kind == _PALETTE and map_bits == 16:
            stored = picture.palette.palette
            picture.palette = ImagePalette.raw(_FIVE_BITS, stored)
    if picture.mode in ("RGBA", "LA") and meaning is not None and meaning not in (*_MEANINGLESS, _STRAIGHT):
        raise UnsupportedPixels("the TGA picture's colours are multiplied by alpha; save it without that")
    return picture.mode in ("RGBA", "LA") and meaning in _MEANINGLESS


def _alpha_kind(data: bytes) -> int | None:
    """Return what the extension area says about alpha; None where there is no such area."""
    footer = data[-_FOOTER:]
    if not footer.endswith(_MARK) or len(footer) < _FOOTER:
        return None
    (offset,) = struct.unpack_from("<L", footer)
    return data[offset + _ALPHA_KIND] if offset and offset + _ALPHA_KIND < len(data) else None


def flatten(picture: Any) -> None:
    """Have a run-length encoded picture decoded as a single row: Pillow refuses runs that cross the end of a row.

    The standard says that they should not, and files of long ago have them.

    Args:
        picture: Opened and not decoded yet. Nothing happens to one without such encoding.
    """
    if not picture.tile or picture.tile[0][0] != "tga_rle":
        return
    codec, _, offset, (samples, orientation, depth) = picture.tile[0]
    turned = (orientation < 0, picture._flip_horizontally)
    picture.info[_FLAT] = (picture.size, turned)
    picture._size = (picture.width * picture.height, 1)
    picture._flip_horizontally = False
    picture.tile = [type(picture.tile[0])(codec, (0, 0, *picture.size), offset, (samples, 1, depth))]


def unflatten(picture: Any) -> None:
    """Give a decoded picture the rows back that flatten took, in place."""
    if _FLAT not in picture.info:
        return
    size, (upside_down, mirrored) = picture.info.pop(_FLAT)
    rows = Image.frombytes(picture.mode, size, picture.tobytes())
    if upside_down:
        rows = rows.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if mirrored:
        rows = rows.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.im, picture._size = rows.im, size
    if picture.mode == "P":
        picture.palette.dirty = 1
        picture.load()
