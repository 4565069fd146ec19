"""Make a picture the size of a network: stretch it, crop it, or pad it."""

from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

Resize = Literal["stretch", "crop", "pad"]
"""The fit of a picture of another aspect to the network's size.

stretch: the whole picture, at another aspect.
crop:    the middle of it, at its own aspect: the shorter side is made to fit and the rest cut off.
pad:     the whole picture, at its own aspect, in the middle of the background.
"""
RESIZES: tuple[str, ...] = get_args(Resize)


@dataclass(frozen=True)
class Geometry:
    """A resampling of a picture.

    Attributes:
        part: Left, top, right and bottom of the part that is kept, in pixels. None for all of it.
        size: (width, height) that it becomes.
    """

    part: tuple[float, float, float, float] | None
    size: tuple[int, int]


def geometry(resize: str, picture: tuple[int, int], wanted: tuple[int, int]) -> Geometry:
    """Return how a picture is resampled, before it is padded.

    Args:
        resize: One of RESIZES.
        picture: (width, height) in pixels.
        wanted: (width, height) in pixels.

    Raises:
        ValueError: resize is something else.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}; known are: {', '.join(RESIZES)}")
    (width, height), (across, down) = picture, wanted
    if resize == "stretch" or width * down == height * across:
        return Geometry(None, wanted)
    if resize == "pad":
        scale = min(across / width, down / height)
        return Geometry(None, (max(1, round(width * scale)), max(1, round(height * scale))))
    scale = max(across / width, down / height)
    left, top = (width - across / scale) / 2, (height - down / scale) / 2
    return Geometry((max(left, 0.0), max(top, 0.0), min(width - left, width), min(height - top, height)), wanted)


def pad(picture: Image.Image, wanted: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
    """Return a picture in the middle of a background of the wanted (width, height), itself if it has that size."""
    if picture.size == wanted:
        return picture
    padded = Image.new("RGB", wanted, background)
    padded.paste(picture, ((wanted[0] - picture.width) // 2, (wanted[1] - picture.height) // 2))
    return padded
