"""Decode pictures in threads, so that neither the event loop nor small pictures wait for large ones."""

import asyncio
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgn_serve.pictures import decoding
from sgn_serve.pictures.large_pictures import LargePictures

LARGE_PIXELS = 1_000_000
"""A picture with more pixels is decoded in the thread for large pictures."""


class Decoder:
    """Decodes pictures to one size.

    A picture whose request is cancelled before its turn is not decoded. One that is being decoded may hold its thread
    to the end, because some of Pillow's decoders read their file only once. open_picture therefore refuses, by size,
    what would take such a decoder more than a second or two.

    Args:
        size: (height, width) in pixels.
        max_pixels: Largest width times height.
        background: Colour under transparent pixels: RGB, 0 to 255.
        seconds: Time limit for one picture, see decoding.open_picture.
        threads: Number of threads for pictures of up to a megapixel. Larger ones take turns in one more thread, because
            one may need a dozen bytes of memory a pixel while it is decoded. Few may wait for it: see LargePictures.
        resize: What happens to a picture of another aspect, see images.to_rgb.
    """

    def __init__(
        self,
        size: tuple[int, int],
        max_pixels: int,
        background: tuple[int, int, int] = decoding.WHITE,
        seconds: float = 5.0,
        threads: int = 2,
        resize: str = "stretch",
    ):
        self.size = size
        self.max_pixels = max_pixels
        self.background = background
        self.seconds = seconds
        self.resize = resize
        self.formats = decoding.FORMATS
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="decode-large")
        self._waiting = LargePictures()

    async def decode(self, file: IO[bytes], request: Hashable) -> NDArray[np.float32]:
        """Decode a picture file in a thread.

        Args:
            file: The file, at its beginning.
            request: The request that the picture belongs to. Large pictures of one request may wait for each other.

        Returns:
            RGB in [0, 1], (3, H, W).

        Raises:
            PictureRefused: The file cannot be decoded, or too many large pictures of other requests wait.
        """
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._small, self._open, file)
        if isinstance(picture, Image.Image):
            with self._waiting.wait(request):
                picture = await loop.run_in_executor(self._large, self._large_to_array, picture)
        return picture

    def close(self) -> None:
        """End the threads as soon as they are done, without waiting for them."""
        self._small.shutdown(wait=False)
        self._large.shutdown(wait=False)

    def _open(self, file: IO[bytes]) -> NDArray[np.float32] | Image.Image:
        """Return the pixels of a small picture; return a large one opened, with its pixels not decoded."""
        picture = decoding.open_picture(file, self.max_pixels, self.seconds, self.formats)
        if decoding.decoded_pixels(picture) > LARGE_PIXELS:
            return picture
        return self._to_array(picture)

    def _large_to_array(self, picture: Image.Image) -> NDArray[np.float32]:
        with self._waiting.measure():
            return self._to_array(picture)

    def _to_array(self, picture: Image.Image) -> NDArray[np.float32]:
        return decoding.to_array(picture, self.size, self.background, self.resize)
