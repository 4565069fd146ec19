"""Pictures decoded in threads, beside the event loop and the network, without large ones holding up small ones."""

import asyncio
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgn_serve.pictures import images
from sgn_serve.pictures.large_pictures import LargePictures

LARGE_PIXELS = 1_000_000


class Decoder:
    """Decodes pictures to one size.

    size:       (height, width) in pixels
    max_pixels: largest width times height
    background: RGB that transparency lies on, 0 to 255
    seconds:    for one picture, see images.open_picture
    threads:    for pictures of up to a megapixel. Larger ones take turns in one more thread, for one may need a dozen
                bytes of memory a pixel while it is decoded; few may wait for it (large_pictures.py)

    A decoder that reads its file only once holds its thread to the end, whoever waits for it; open_picture refuses, by
    size, what would take it more than a second or two. Pictures whose turn has not come when their request is given up
    are not decoded.
    """

    def __init__(
        self,
        size: tuple[int, int],
        max_pixels: int,
        background: tuple[int, int, int] = images.WHITE,
        seconds: float = 5.0,
        threads: int = 2,
    ):
        self.size = size
        self.max_pixels = max_pixels
        self.background = background
        self.seconds = seconds
        self._small = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="decode-large")
        self._waiting = LargePictures()

    async def decode(self, file: IO[bytes], request: Hashable) -> NDArray[np.float32]:
        """A picture file, at its beginning, as the network takes it: (3, H, W) in [0, 1].

        request: whose picture it is: those of one may wait for each other
        raises images.ImageError, and batching.Overloaded for a large one that too many others wait before
        """
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._small, self._open, file)
        if isinstance(picture, Image.Image):
            with self._waiting.wait(request):
                picture = await loop.run_in_executor(self._large, self._large_to_array, picture)
        return picture

    def close(self) -> None:
        """Ends the threads when they are done."""
        self._small.shutdown(wait=False)
        self._large.shutdown(wait=False)

    def _open(self, file: IO[bytes]) -> NDArray[np.float32] | Image.Image:
        """The pixels; of a large picture only its header, read."""
        picture = images.open_picture(file, self.max_pixels, self.seconds)
        if images.decoded_pixels(picture) > LARGE_PIXELS:
            return picture
        return self._to_array(picture)

    def _large_to_array(self, picture: Image.Image) -> NDArray[np.float32]:
        with self._waiting.measure():
            return self._to_array(picture)

    def _to_array(self, picture: Image.Image) -> NDArray[np.float32]:
        return images.to_array(picture, self.size, self.background)
