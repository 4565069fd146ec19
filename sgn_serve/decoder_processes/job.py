"""Decode a picture file to the size of the network, in a decoder process."""

import codecs
import importlib
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from sgn_serve.pictures import decoding
from sgn_serve.pictures.plain_png import plain_pixels

LARGE_PIXELS = 1_000_000
"""A picture with more pixels is large."""

Job = Callable[[bytes, int], NDArray[np.uint8]]
"""Decode a file, given the most pixels that it may have, to RGB from 0 to 255, (height, width, 3).

It may raise PictureRefused, and IsLarge.
"""


class IsLarge(Exception):
    """The picture has more pixels than it may have here. It may be decoded in another process, or later.

    Args:
        pixels: Number of its pixels.
    """

    def __init__(self, pixels: int):
        super().__init__(pixels)
        self.pixels = pixels


@dataclass(frozen=True)
class PictureOptions:
    """Options that are the same for every picture.

    Attributes:
        size: (height, width) in pixels that pictures become.
        max_pixels: See decoding.open_picture.
        background: See decoding.to_rgb.
        resize: See decoding.to_rgb.
        formats: See decoding.open_picture.
    """

    size: tuple[int, int]
    max_pixels: int
    background: tuple[int, int, int] = decoding.WHITE
    resize: str = "stretch"
    formats: tuple[str, ...] = decoding.FORMATS

    @property
    def needs_threads(self) -> bool:
        """Whether a decoder starts threads: that of HEIC does, even for one."""
        return "HEIF" in self.formats

    def as_json(self) -> dict[str, Any]:
        """Return the attributes, for make_job."""
        return asdict(self)


def make_job(size: list[int], max_pixels: int, background: list[int], resize: str, formats: list[str]) -> Job:
    """Return the job of a decoder process, with all loaded that it may ever need.

    Args:
        size: See PictureOptions, as for all others.
        max_pixels: See there.
        background: See there.
        resize: See there.
        formats: See there.
    """
    load_all()
    height, width = size
    red, green, blue = background
    accepted = tuple(formats)
    may_be_plain = "PNG" in accepted and height * width <= max_pixels

    def decode(data: bytes, most_pixels: int) -> NDArray[np.uint8]:
        if may_be_plain and height * width <= most_pixels:
            plain = plain_pixels(data, (height, width))
            if plain is not None:
                return plain
        picture = decoding.open_picture(data, max_pixels, accepted)
        pixels = picture.width * picture.height
        if pixels > most_pixels:
            raise IsLarge(pixels)
        return decoding.to_rgb(picture, (height, width), (red, green, blue), resize)

    return decode


def load_all() -> None:
    """Import what Pillow imports when a picture needs it: a confined process can open no module's file.

    Decoders must not start threads either, which a confined process cannot do unless it is for HEIC too.
    """
    Image.init()
    for module in pkgutil.iter_modules(PIL.__path__):
        if module.name.startswith(("Image", "Exif", "Tiff", "Jpeg", "Iptc", "Gimp", "Palette")):
            with suppress(ImportError):  # those of other systems, and of toolkits that are not installed
                importlib.import_module(f"PIL.{module.name}")
    for name in ("ascii", "cp1252", "latin-1", "utf-8", "utf-16", "utf-16-be", "utf-16-le"):
        codecs.lookup(name)
    with suppress(ImportError):
        avif: Any = importlib.import_module("PIL.AvifImagePlugin")
        avif.DEFAULT_MAX_THREADS = 1
