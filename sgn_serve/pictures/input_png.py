"""Write the array that a network takes as a PNG file, for people to see and for programs to change."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def input_png(image: NDArray[np.float32]) -> bytes:
    """Return a network's input as a PNG file. Decoding that file at its own size gives the same input.

    Args:
        image: RGB in [0, 1], (3, H, W), each value a whole number of 255ths as sgn_serve.pictures.decoding makes it.
    """
    pixels = (image * 255).round().astype(np.uint8).transpose(1, 2, 0)
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
