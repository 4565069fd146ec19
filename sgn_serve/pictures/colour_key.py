"""Have the transparent colour of a PNG found rightly. Pillow compares it with samples of another depth."""

from io import BytesIO
from typing import Any

from PIL import Image, ImageChops, PngImagePlugin

_KEY = "transparency"
_SHALLOW = {"L;2": 3, "L;4": 15}
"""White in greys of fewer bits than a byte, by Pillow's names. Pillow stretches the samples and leaves the key."""
_DEEP, _LOW_BYTES = "RGB;16B", "RGB;16L"
"""Samples of 16 bits, of which Pillow keeps the high bytes, and what makes it keep the low ones."""


def correct(picture: Any) -> bool:
    """Correct the key of an opened PNG of shallow greys.

    Args:
        picture: Opened and not decoded yet.

    Returns:
        Whether it has 16 bits and a key, so that hide is needed.
    """
    if _KEY not in picture.info or not picture.tile:
        return False
    samples = picture.tile[0][3]
    if samples in _SHALLOW:
        white = _SHALLOW[samples]
        picture.info[_KEY] = (picture.info[_KEY] & white) * (255 // white)
    return bool(samples == _DEEP)


def hide(picture: Any, data: bytes) -> None:
    """Make the key's pixels of a PNG with 16 bits a sample transparent, in place.

    Args:
        picture: Decoded.
        data: The whole file. It is decoded once more for the low bytes.
    """
    key = picture.info.pop(_KEY)
    with PngImagePlugin.PngImageFile(BytesIO(data)) as low:
        low.tile = [low.tile[0]._replace(args=_LOW_BYTES)]
        low.load()
    alpha = Image.new("L", picture.size)
    for channel, value in enumerate(key):
        for half, wanted in ((picture, value >> 8), (low, value & 255)):
            differs = half.getchannel(channel).point([255 * (byte != wanted) for byte in range(256)])
            alpha = ImageChops.lighter(alpha, differs)
    picture.putalpha(alpha)
