"""Have JPEG 2000 pictures decoded rightly, or refuse them.

Pillow takes every four components for RGBA or CMYK. It shifts samples of fewer than eight bits to the left (so white is
not 255). It rounds samples of more bits up to 256, which wraps to 0. It merges equal colours of a palette, which shifts
the others.
Source: ISO/IEC 15444-1, annexes A.4.2 (SOT), A.5.1 (SIZ) and I.5.3 (JP2 header box).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImagePalette, Jpeg2KImagePlugin

from sgn_serve.pictures.errors import DamagedImage, UnsupportedPixels

_CODESTREAM = b"\xff\x4f\xff\x51"
_SIZ = 4
"""Place of the SIZ segment's content in a codestream."""
_TILE_PART = b"\xff\x90"
"""Marker of a tile-part's header, SOT."""
_END = b"\xff\xd9"
"""Marker of a codestream's end, EOC."""
_CMYK, _SRGB, _GREY, _SYCC = 12, 16, 17, 18
_CHANNELS = {_CMYK: 4, _SRGB: 3, _GREY: 1, _SYCC: 3}
"""Colour channels, by the number of an enumerated colour space."""
_PROFILES = {b"RGB ": 3, b"GRAY": 1}
"""Colour channels, by the colour space of an ICC profile."""
_ENUMERATED, _RESTRICTED_ICC = 1, 2
_ALPHA = 1
_MOST_BITS = 16
_DIRECT = b"\x00\x00\x00\x00"


@dataclass(frozen=True)
class Samples:
    """The format of a picture's samples.

    Attributes:
        depths: Bits of each component's samples.
        colours: How many of the components are colours. None where the file does not say.
        sycc: Whether the colours are luma and chroma.
        palette: Pairs of (mode, colours) for a palette; None without one.
    """

    depths: tuple[int, ...]
    colours: int | None
    sycc: bool = False
    palette: tuple[str, bytes] | None = None


def read_samples(data: bytes) -> Samples:
    """Read the header of a JPEG 2000 file.

    Args:
        data: The whole file, a JP2 file or a bare codestream.

    Raises:
        DamagedImage: The header cannot be read.
        UnsupportedPixels: The samples are of a kind that is not read rightly.
    """
    try:
        if data.startswith(_CODESTREAM):
            depths = _depths(data, 0)
            steps = data[_SIZ + 38 : _SIZ + 38 + 3 * len(depths)]
            return _checked(Samples(depths, None, sycc=len(depths) == 3 and {*steps[1::3], *steps[2::3]} != {1}))
        boxes = dict(reversed([*_boxes(data, 0, len(data), top=True)]))  # the first of each name
        header = [*_boxes(data, *boxes[b"jp2h"])]
        depths = _depths(data, boxes[b"jp2c"][0])
        return _jp2_samples([(name, data[start:end]) for name, (start, end) in header], depths)
    except (struct.error, IndexError, KeyError):
        raise DamagedImage("the JPEG2000 picture's header cannot be read") from None


def _codestream_start(data: bytes) -> int:
    if data.startswith(_CODESTREAM):
        return 0
    return next(start for name, (start, _) in _boxes(data, 0, len(data), top=True) if name == b"jp2c")


def _boxes(data: bytes, at: int, end: int, top: bool = False) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield the name and the place of the content of each box. Those of a file end at its codestream."""
    while at + 8 <= end:
        size, name = struct.unpack_from(">L4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        following = at + size if size else end
        if following < start:
            raise IndexError
        yield name, (start, min(following, end))
        if top and name == b"jp2c":
            return
        at = following


def _depths(data: bytes, start: int) -> tuple[int, ...]:
    """Return the bits of each component's samples, from the codestream that starts there."""
    if data[start : start + 4] != _CODESTREAM:
        raise IndexError
    (count,) = struct.unpack_from(">H", data, start + _SIZ + 36)
    kinds = [data[start + _SIZ + 38 + 3 * index] for index in range(count)]
    if any(kind & 0x80 for kind in kinds):
        raise UnsupportedPixels("the JPEG2000 picture has signed samples, whose black is unknown; save it unsigned")
    if any((kind & 0x7F) >= _MOST_BITS for kind in kinds):
        raise UnsupportedPixels(f"the JPEG2000 picture has more than {_MOST_BITS} bits a sample; save it with fewer")
    if not 1 <= count <= 4:
        raise UnsupportedPixels(f"the JPEG2000 picture has {count} components; save it with 1 to 4")
    return tuple((kind & 0x7F) + 1 for kind in kinds)


def lacks_tiles(data: bytes) -> bool:
    """Return whether a file holds fewer tiles, or parts of a tile, than its headers say. OpenJPEG leaves them black.

    Args:
        data: The whole file, whose header read_samples has read.
    """
    at = _codestream_start(data) + _SIZ
    right, bottom, _, _, across, down, left, top = struct.unpack_from(">8L", data, at + 4)
    tiles = -(-(right - left) // max(across, 1)) * -(-(bottom - top) // max(down, 1))
    parts: dict[int, int] = {}
    wanted: dict[int, int] = {}
    while data[at - 2 : at] != _TILE_PART:
        following = at + int.from_bytes(data[at : at + 2], "big") + 2
        if not at + 2 < following < len(data):
            return True
        at = following
    while data[at - 2 : at] == _TILE_PART and at + 10 <= len(data):
        tile, size, _, count = struct.unpack_from(">HLBB", data, at + 2)
        parts[tile] = parts.get(tile, 0) + 1
        wanted[tile] = max(wanted.get(tile, 1), count)
        if size == 0:  # up to the end
            break
        at += max(size, 12)
    else:
        if data[at - 2 : at] != _END:  # the parts of a tile need not be told
            return True
    return len(parts) < tiles or any(parts[tile] < count for tile, count in wanted.items())


def _jp2_samples(header: list[tuple[bytes, bytes]], depths: tuple[int, ...]) -> Samples:
    spaces = [_colour_space(content) for name, content in header if name == b"colr"]
    if not spaces or None in spaces:
        raise UnsupportedPixels(
            "the JPEG2000 picture's colours are none of sRGB, grey, sYCC and CMYK; save it in one of these"
        )
    colours, sycc = spaces[0] or (0, False)
    named = dict(header)
    channels = _channels(named.get(b"cdef", b""))
    if b"pclr" in named:
        return Samples(depths, colours, False, _palette(named, colours, depths))
    if any(count != colours for count, _ in filter(None, spaces)) or colours not in (len(depths), len(depths) - 1):
        raise UnsupportedPixels(
            f"the JPEG2000 picture has {len(depths)} components and {colours} colours; save it anew"
        )
    extra = [kind for place, kind, _ in channels if place == colours]
    if len(depths) > colours and extra not in ([], [_ALPHA]):
        raise UnsupportedPixels("the JPEG2000 picture's last channel is no straight alpha; save it with one")
    return _checked(Samples(depths, colours, sycc))


def _checked(samples: Samples) -> Samples:
    """Return the samples, unless they are luma and chroma of a depth that is not converted rightly.

    OpenJPEG takes three components for these too if their samplings differ and nothing says what they are.
    """
    if samples.sycc and {*samples.depths} != {8}:
        raise UnsupportedPixels("the JPEG2000 picture has other than 8 bits of luma and chroma; save it in sRGB")
    return samples


def _colour_space(content: bytes) -> tuple[int, bool] | None:
    """Return the number of colours, and whether they are luma and chroma. None for a colour space that is not read."""
    if content[0] == _ENUMERATED:
        (number,) = struct.unpack_from(">L", content, 3)
        return (_CHANNELS[number], number == _SYCC) if number in _CHANNELS else None
    if content[0] == _RESTRICTED_ICC:
        colours = _PROFILES.get(content[3 + 16 : 3 + 20])
        return (colours, False) if colours else None
    return None


def _channels(content: bytes) -> list[tuple[int, int, int]]:
    """Return the number, kind and colour of each channel, from a cdef box."""
    (count,) = struct.unpack_from(">H", content) if content else (0,)
    return [struct.unpack_from(">HHH", content, 2 + 6 * index) for index in range(count)]


def _palette(named: dict[bytes, bytes], colours: int, depths: tuple[int, ...]) -> tuple[str, bytes]:
    """Return a palette of 256 colours, each at the place that its index has once it is shifted to eight bits."""
    content = named[b"pclr"]
    entries, columns = struct.unpack_from(">HB", content)
    plain = b"".join(_DIRECT[:2] + bytes([1, column]) for column in range(columns))
    alpha = columns == 4 and _channels(named.get(b"cdef", b""))[3:] == [(3, _ALPHA, 0)]
    if (
        len(depths) != 1
        or depths[0] > 8
        or colours != 3
        or not (columns == 3 or alpha)
        or set(content[3 : 3 + columns]) != {7}
        or named.get(b"cmap") != plain
    ):
        raise UnsupportedPixels("the JPEG2000 picture's palette is of a kind that is not read; save it without palette")
    table = content[3 + columns :]
    shown = bytearray(256 * columns)
    for index in range(min(entries, 1 << depths[0])):
        at = (index << (8 - depths[0])) * columns
        shown[at : at + columns] = table[index * columns : (index + 1) * columns].ljust(columns, b"\0")
    return ("RGBA" if alpha else "RGB"), bytes(shown)


def correct(picture: Any, samples: Samples) -> None:
    """Correct how an opened picture will be decoded.

    Args:
        picture: Opened by Pillow and not decoded yet.
        samples: Result of read_samples.
    """
    if samples.palette is not None:
        picture._mode = "P"
        picture.palette = ImagePalette.ImagePalette(*samples.palette)
        picture.palette.dirty = 1


def white(samples: Samples) -> int:
    """Return the value of white that Pillow's 16-bit mode has for these samples."""
    depth = min(samples.depths[0], 16)
    return ((1 << depth) - 1) << (16 - depth)


def unwrap(picture: Image.Image, samples: Samples, data: bytes) -> None:
    """Turn the zeros of a decoded picture that were white back into white, in place.

    Samples of more than eight bits in several components may have wrapped. The picture is decoded once more as if they
    had one bit more, so that black is 64 and white 191.

    Args:
        picture: Decoded.
        samples: Result of read_samples.
        data: The whole file.
    """
    if len(samples.depths) == 1 or max(samples.depths) <= 8:
        return
    values = np.array(picture)
    if values.all():
        return
    deeper, at = bytearray(data), _codestream_start(data) + _SIZ + 38
    for index, depth in enumerate(samples.depths):
        deeper[at + 3 * index] += depth > 8
    with Jpeg2KImagePlugin.Jpeg2KImageFile(BytesIO(bytes(deeper))) as other:
        other.load()
        above = np.asarray(other) > 128
    above[..., [depth <= 8 for depth in samples.depths]] = False
    values[(values == 0) & above] = 255
    picture.im = Image.frombytes(picture.mode, picture.size, values.tobytes()).im


def stretch(picture: Image.Image, samples: Samples) -> None:
    """Stretch the samples of a decoded picture that have fewer than eight bits to the whole range, in place."""
    if samples.palette is not None or min(samples.depths) >= 8:
        return
    table: list[int] = []
    for depth in samples.depths:
        shift, most = max(8 - depth, 0), (1 << min(depth, 8)) - 1
        table += [round((value >> shift) * 255 / most) for value in range(256)]
    picture.im = picture.im.point(table, None)
