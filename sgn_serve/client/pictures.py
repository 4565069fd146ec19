"""Turn what a program holds as a picture into the bytes of a file."""

import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
    """A picture: the path of a file, its content, an open file, a Pillow image, or an (H, W, 3) array."""

_AS_THEY_ARE = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
"""Pillow's modes that a PNG holds."""
_WITH_ALPHA = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


class File(NamedTuple):
    """The name and the content of a file."""

    name: str
    content: bytes


def picture_file(picture: "Picture") -> File:
    """Return a picture as a file. Files and bytes are sent as they are; images and arrays become PNG.

    Args:
        picture: A path; the bytes of a file; a file that is open for reading in binary; or a Pillow image. Or RGB as an
            (H, W, 3) array, uint8 or floating point in [0, 1]. Floating point is rounded to 255 levels.

    Raises:
        OSError: The file cannot be read.
        TypeError: It is none of these.
        ValueError: It is an array of another shape, type or range, or an image that no PNG can hold.
    """
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        return File(path.name, path.read_bytes())
    if isinstance(picture, bytes | bytearray | memoryview):
        return File("picture", bytes(picture))
    if hasattr(picture, "getexif"):  # a Pillow image; Pillow is imported only where it is used
        return File("picture.png", _image_png(picture))
    if hasattr(picture, "read"):
        content = picture.read()
        if not isinstance(content, bytes):
            raise TypeError('the file gives text, not bytes: open it with "rb"')
        return File("picture", content)
    if hasattr(picture, "__array__"):
        return File("picture.png", _array_png(np.asarray(picture)))
    raise TypeError(
        f"a picture is a path, bytes, an open file, a Pillow image or an (H, W, 3) array, not {type(picture).__name__}"
    )


def _array_png(array: NDArray[Any]) -> bytes:
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        hint = "; pass a list of the pictures to classify several" if array.ndim == 4 else ""
        if array.ndim == 3 and array.shape[0] == 3:
            hint = "; this looks like (3, H, W): transpose it"
        raise ValueError(f"the array must be (H, W, 3), RGB, not {array.shape}{hint}")
    if array.dtype == np.uint8:
        return _png(Image.fromarray(np.ascontiguousarray(array)))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"the array must be uint8, or floating point in [0, 1], not {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails too
        raise ValueError(
            f"the array's numbers must be in [0, 1], not from {array.min():g} to {array.max():g}; "
            "pass values from 0 to 255 as uint8, and no normalised picture: the network normalises"
        )
    return _png(Image.fromarray(np.rint(255 * array.astype(np.float64)).astype(np.uint8)))


def _image_png(image: Any) -> bytes:
    if image.mode in _AS_THEY_ARE:
        # The orientation goes along, so that the service turns the image as it would turn the image's own file.
        return _png(image, exif=image.getexif())
    if image.mode == "F":
        raise ValueError("an image of mode F has no black and no white: pass its pixels as an array in [0, 1]")
    # The profile of another colour space would be wrong for RGB.
    return _png(image.convert(_WITH_ALPHA.get(image.mode, "RGB")), exif=image.getexif(), icc_profile=None)


def _png(image: "Image.Image", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1, **options)
    return content.getvalue()
