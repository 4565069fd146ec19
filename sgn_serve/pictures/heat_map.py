"""Draw the self-gradient: how much each pixel changes the sum of the network's logits."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 256
_STRONGEST = 99
"""Percentile of the strengths that is drawn brightest, so that a single pixel does not leave all others dark."""

_COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)
"""Five colours of the map "inferno", from dark to bright in even steps of lightness."""


def heat_map(image: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw the magnitude of a gradient over its picture in grey: the stronger, the brighter.

    Args:
        image: RGB in [0, 1], (3, H, W).
        gradient: (3, H, W) in any unit, because each picture is scaled by its own strongest pixels.

    Returns:
        RGB, (H, W, 3).
    """
    strength = np.sqrt((gradient.astype(np.float64) ** 2).sum(axis=0))
    strongest = np.percentile(strength, _STRONGEST) or strength.max()
    heat = np.clip(strength / strongest, 0, 1) if strongest > 0 else np.zeros_like(strength)
    at = heat * (len(_COLOURS) - 1)
    colour = np.stack([np.interp(at, np.arange(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=-1)
    grey = (image.mean(axis=0) * 255)[..., None]
    share = 0.85 * np.sqrt(heat)[..., None]
    mixed: NDArray[np.uint8] = (share * colour + (1 - share) * grey).round().astype(np.uint8)
    return mixed


def heat_map_png(image: NDArray[np.float32], gradient: NDArray[np.float32]) -> bytes:
    """Return heat_map as a PNG file. A small picture is enlarged, each pixel to a square.

    Args:
        image: See heat_map.
        gradient: See heat_map.
    """
    drawn = Image.fromarray(heat_map(image, gradient))
    scale = max(1, -(-_SIDE // max(drawn.size)))
    file = BytesIO()
    drawn.resize((drawn.width * scale, drawn.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
