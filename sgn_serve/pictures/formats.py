"""List the picture formats that are read, and which of them this installation can read."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from PIL import Image, features

from sgn_serve.common.error_text import one_line


@dataclass(frozen=True)
class _Format:
    """A picture format.

    Attributes:
        kinds: Its kinds that are read, and those that are refused.
        plugins: Modules that register it with Pillow.
        feature: Feature that Pillow must have been built with, by the name that PIL.features knows. None for nothing.
        package: Package that reads it, where Pillow itself does not. None if it does.
        also: Names under which Pillow registers further suffixes of the format.
    """

    kinds: str
    plugins: tuple[str, ...]
    feature: str | None = None
    package: str | None = None
    also: tuple[str, ...] = ()


_FORMATS = {
    "PNG": _Format("every depth and colour type; large texts and profiles are passed over", ("PIL.PngImagePlugin",)),
    "JPEG": _Format(
        "progressive, CMYK; one whose end marker alone is missing; what lacks pixels behind such a marker is read as "
        "viewers read it",
        ("PIL.JpegImagePlugin", "PIL.MpoImagePlugin"),
        "jpg",
        also=("MPO",),
    ),
    "WEBP": _Format("lossy and lossless, alpha", ("PIL.WebPImagePlugin",), "webp"),
    "GIF": _Format("interlaced, transparent", ("PIL.GifImagePlugin",)),
    "BMP": _Format("1, 4, 8, 16, 24 and 32 bits, run-length encoded", ("PIL.BmpImagePlugin",), also=("DIB",)),
    "TIFF": _Format(
        "1 to 16 bits, planes, palettes, CMYK, LAB; no signed and no 32-bit samples", ("PIL.TiffImagePlugin",)
    ),
    "AVIF": _Format(
        "every sampling, alpha, turned and mirrored; none that is cropped by a property",
        ("PIL.AvifImagePlugin",),
        "avif",
    ),
    "HEIF": _Format(
        "HEIC: every sampling, 8 to 12 bits, tiles, alpha, turned, mirrored and cropped",
        ("pillow_heif.HeifImagePlugin",),
        package=".[heic]",
    ),
    "JPEG2000": _Format(
        "files and bare codestreams, 1 to 16 bits, sRGB, grey, sYCC, CMYK, palettes, alpha; nothing signed or "
        "premultiplied",
        ("PIL.Jpeg2KImagePlugin",),
        "jpg_2000",
    ),
    "PPM": _Format("P1 to P6, 1 to 16 bits; no floating point (PFM) and no PAM", ("PIL.PpmImagePlugin",)),
    "ICO": _Format("the largest picture, PNG or bitmap with its mask", ("PIL.IcoImagePlugin",)),
    "QOI": _Format("RGB and RGBA; decoded in Python, so a large one may take too long", ("PIL.QoiImagePlugin",)),
    "DDS": _Format(
        "uncompressed, DXT1, DXT3, DXT5, BC1 to BC5 and BC7; nothing signed, floating-point or premultiplied, no cube, "
        "no volume",
        ("PIL.DdsImagePlugin",),
    ),
    "TGA": _Format(
        "every origin, 8 to 32 bits, palettes, run-length encoded; no single bit of alpha", ("PIL.TgaImagePlugin",)
    ),
}
"""Formats by Pillow's names, in the order in which they are tried. TGA is the last: its files have no signature.

None of them runs another program, as Pillow does for EPS. No other decoder is ever tried.
"""
KNOWN = tuple(_FORMATS)
"""Formats that are read where they are installed, by Pillow's names."""


@cache
def lacking(name: str) -> str | None:
    """Return what this installation lacks to read a format, and how to get it; None if it reads it.

    Args:
        name: One of KNOWN.
    """
    wanted = _FORMATS[name]
    if wanted.feature is not None and not features.check(wanted.feature):
        return f"this build of Pillow has no {wanted.feature}; install Pillow's own wheel: pip install pillow"
    try:
        for plugin in wanted.plugins:
            importlib.import_module(plugin)
    except ImportError as error:
        return f'{one_line(error)}; install it: pip install "{wanted.package or "pillow"}"'
    return None


AVAILABLE = tuple(name for name in KNOWN if lacking(name) is None)
"""Formats that this installation reads, by Pillow's names."""


def suffixes(formats: Iterable[str]) -> tuple[str, ...]:
    """Return the endings of the names of files in these formats, with their dot, in lower case.

    Args:
        formats: Some of AVAILABLE.
    """
    names = {name: index for index, known in enumerate(formats) for name in (known, *_FORMATS[known].also)}
    found = {suffix: names[name] for suffix, name in Image.EXTENSION.items() if name in names}
    return tuple(sorted(found, key=lambda suffix: (found[suffix], suffix)))


def media_types(formats: Iterable[str]) -> tuple[str, ...]:
    """Return the media type of each of these formats, such as image/png.

    Args:
        formats: Some of AVAILABLE.
    """
    return tuple(Image.MIME.get(name, f"image/{name.lower()}") for name in formats)


class FormatRow(NamedTuple):
    """One row of the documentation's table of formats."""

    name: str
    suffixes: tuple[str, ...]
    kinds: str
    package: str | None


def format_rows() -> list[FormatRow]:
    """Return every format, in the order in which they are tried: the documentation's table is generated from it."""
    return [FormatRow(name, suffixes((name,)), row.kinds, row.package) for name, row in _FORMATS.items()]
