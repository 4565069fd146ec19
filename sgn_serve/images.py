"""Picture files to arrays: bytes in, float32 (3, H, W) in [0, 1] out, within limits."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are accepted; no other decoder is ever tried."""

# Pillow's own limit is a second one, at another place and in other words; decode() checks the caller's before decoding.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """A file that cannot be made a picture; the message says why."""


class NotAnImage(ImageError):
    """None of the accepted formats."""


class TooManyPixels(ImageError):
    """More pixels than allowed."""


class DamagedImage(ImageError):
    """It starts like a picture, but cannot be decoded to the end."""


class UnsupportedPixels(ImageError):
    """A picture whose pixels have no known place between black and white, such as floating-point ones."""


def decode(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.float32]:
    """A picture file as a network takes it.

    data:       the file
    size:       (height, width) wanted, in pixels
    max_pixels: largest width times height to decode
    returns:    (3, height, width) RGB in [0, 1]

    A picture of another size is stretched to the wanted one whatever its aspect, so that nothing is cut off
    (bilinear, antialiased when shrinking); one that has it already keeps every value. Transparency lies on white,
    the EXIF orientation is applied, of an animation the first frame is taken, colour profiles are ignored.

    raises NotAnImage, TooManyPixels (before decoding), DamagedImage, UnsupportedPixels
    """
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAnImage(
            f"the file is none of the accepted formats ({', '.join(FORMATS)}), or its header is damaged"
        ) from None
    except Exception as error:  # Pillow's parsers raise whatever a broken header makes them stumble on
        raise DamagedImage(f"the picture's header cannot be read ({_reason(error)})") from None
    with picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise TooManyPixels(f"the picture has {width} x {height} = {width * height} pixels, more than {max_pixels}")
        try:
            picture.load()
        except Exception as error:  # as above, now for broken pixel data
            raise DamagedImage(f"the {picture.format} picture is truncated or damaged ({_reason(error)})") from None
        rgb = _to_rgb(_upright(picture))
    if rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(rgb, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels / np.float32(255))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF is a hint: a damaged one does not make the picture unreadable
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # convert("RGB") would clip 16 bits at 255, which turns nearly every grey white.
        values = np.asarray(picture).astype(np.uint32)
        grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        transparent = picture.info.get("transparency")
        if isinstance(transparent, int):
            grey.paste(255, mask=Image.fromarray(values == transparent))
        return grey.convert("RGB")
    if picture.mode in ("I", "F"):
        raise UnsupportedPixels(
            "the picture has 32-bit pixels, whose black and white are unknown; save it with 8 or 16 bits a channel"
        )
    try:
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        layer = picture.convert("RGBA")
    except ValueError as error:
        raise UnsupportedPixels(f"pixels of kind {picture.mode} cannot be read as RGB ({_reason(error)})") from None
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
