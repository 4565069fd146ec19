"""Read picture files of one's own, in training, evaluation and export, to the arrays that serving makes of them."""

import errno
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgn_serve.pictures import decoding
from sgn_serve.pictures.formats import AVAILABLE, suffixes
from sgn_serve.pictures.plain_png import plain_pixels

SUFFIXES = suffixes(AVAILABLE)
"""Endings of their names in lower case. The content, and not the name, tells which format a file has."""
MAX_PIXELS = 178_956_970
"""Most pixels of a file. Pillow refuses more by default too."""

_PNG_EXIF = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG, anywhere in it, that may hold an orientation."""


def read_rgb(
    source: Path | bytes,
    size: tuple[int, int] | None,
    background: tuple[int, int, int] = decoding.WHITE,
    resize: str = "stretch",
) -> NDArray[np.uint8]:
    """Read a picture file to the values that serving makes of it, which divides them by 255.

    Args:
        source: The file or its content.
        size: See decoding.to_rgb.
        background: See decoding.to_rgb.
        resize: See decoding.to_rgb.

    Returns:
        RGB from 0 to 255, (height, width, 3).

    Raises:
        PictureRefused: The file cannot be made such an array; see decoding.open_picture and decoding.to_rgb.
        OSError: The file cannot be read.
    """
    data = source if isinstance(source, bytes) else _content(source)
    plain = None if size is None else plain_pixels(data, size)
    if plain is not None:
        return plain
    return decoding.to_rgb(decoding.open_picture(data, MAX_PIXELS), size, background, resize)


def read_size(source: Path | bytes) -> tuple[int, int]:
    """Return the (height, width) of a picture file as it is shown, in pixels. Its pixels are not decoded.

    Args:
        source: See read_rgb.

    Raises:
        PictureRefused: See read_rgb.
        OSError: The file cannot be read.
    """
    data = source if isinstance(source, bytes) else _content(source)
    with decoding.open_picture(data, MAX_PIXELS) as picture:
        width, height = picture.size
        plain = picture.format == "PNG" and not any(chunk in data for chunk in _PNG_EXIF)
        return (height, width) if plain or width == height else decoding.upright_size(picture)


def _content(path: Path) -> bytes:
    """Return what a file holds. A pipe would have one wait, and a device might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return path.read_bytes()
