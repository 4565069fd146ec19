"""Decode the pictures of a run in the server's confined processes, several small files at a time."""

import asyncio
from collections.abc import Sequence
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sgn_serve.classify.packed_job import answer_shape, pack, places, read_answer
from sgn_serve.decoder_processes.contract import Kind, Limits
from sgn_serve.decoder_processes.decoder import SMALL_CPU_SECONDS, Decoder, DecoderLimits
from sgn_serve.decoder_processes.job import LARGE_PIXELS, PictureOptions
from sgn_serve.decoder_processes.lane import Lane, Waiter
from sgn_serve.decoder_processes.turns import Class
from sgn_serve.pictures import decoding
from sgn_serve.pictures.errors import PictureRefused, TooManyWaiting
from sgn_serve.settings import Settings

PACK_BYTES = 512 * 1024
"""Largest message of several files."""
_SMALL_BYTES = PACK_BYTES // 4
"""Largest file that goes together with others. A larger one takes much longer than a message, so it goes alone."""
READ_BYTES = PACK_BYTES - _SMALL_BYTES
"""Bytes of files that are read for one message. A small file beyond them still fits into it."""
_LARGE_FILE = 512 * 1024
"""A larger file mostly has more than a megapixel. Trying it as a small picture first would read it twice."""
_HEAD_BYTES = 1024
_PACK_SECONDS = 60.0
_LENIENCE = 2.0
"""Multiple of `decode_seconds` of processor time after which a picture is refused. Load makes that time vary."""
_PATIENCE = 10.0
"""Timeout of decoding, as a multiple of its limit of processor time. No client waits, and the network takes cores."""
_FOR_EVER = 1e9
_TRIES = 5
_RETRY_SECONDS = 1.0
_JOB = "sgn_serve.classify.packed_job:make_packed_job"

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""RGB from 0 to 255, (H, W, 3), or what decoding.to_input makes of it, (3, H, W)."""
Decoded = Pixels | PictureRefused


class Cage:
    """Decodes pictures in confined processes.

    A process that a file ends takes the other files of its message along. Each of them is decoded again by itself, so
    that only the guilty one has an error.

    Args:
        options: Options that are the same for every picture.
        settings: The settings, whose limits are the server's.
        processes: Number of processes of each kind.
    """

    def __init__(self, options: PictureOptions, settings: Settings, processes: int):
        self._size = options.size
        self.places = places(options.size)
        cpu_limit = _LENIENCE * settings.decode_seconds
        limits = DecoderLimits(
            processes,
            _PATIENCE * cpu_limit,
            settings.max_bytes + _HEAD_BYTES,
            large_processes=processes,
            cpu_seconds=cpu_limit,
            small_file_bytes=_LARGE_FILE,
            huge_pages=True,
            new_process=True,
        )
        self._decoder = Decoder(options, limits, _JOB)
        cpu_seconds = self.places * SMALL_CPU_SECONDS
        pack_limits = Limits(LARGE_PIXELS, cpu_seconds, _PACK_SECONDS)
        self._packs = Lane(
            self._decoder.fork_server,
            Kind(False, PACK_BYTES + _HEAD_BYTES, answer_shape(options.size)),
            processes,
            {Class.QUICK: pack_limits, Class.LONGER: pack_limits},
        )
        self._alone = asyncio.Semaphore(processes)

    async def start(self) -> None:
        """Start the processes.

        Raises:
            OSError: They cannot be started.
        """
        await self._decoder.start()
        await self._packs.start()

    async def close(self) -> None:
        """End the processes."""
        self._packs.close()
        await self._decoder.close()

    async def decode(self, files: list[bytes]) -> list[Decoded]:
        """Decode some files.

        Args:
            files: No more than `places`.

        Returns:
            The pixels of each, or the reason why the server refuses it.
        """
        together = [number for number, file in enumerate(files) if len(file) <= _SMALL_BYTES]
        decoded: list[Decoded | None] = [None] * len(files)
        if len(together) > 1 and sum(len(files[number]) for number in together) <= PACK_BYTES:
            found = await self._decode_together([files[number] for number in together])
            for number, pixels in zip(together, found, strict=True):
                decoded[number] = pixels
        rest = [number for number, one in enumerate(decoded) if one is None]
        alone = await asyncio.gather(*(self._decode_alone(files[number]) for number in rest))
        for number, answer in zip(rest, alone, strict=True):
            decoded[number] = answer
        return [one for one in decoded if one is not None]

    async def _decode_together(self, files: list[bytes]) -> list[NDArray[np.uint8] | None]:
        waiter = Waiter(self, asyncio.get_running_loop().time() + _FOR_EVER)
        result = await self._packs.decode(BytesIO(pack(files)), waiter)
        if result.pixels is None:
            return [None] * len(files)
        return read_answer(result.pixels, len(files), self._size)

    async def _decode_alone(self, file: bytes) -> Decoded:
        """Decode a file as the server does. A request of its own gives it the whole time of one."""
        async with self._alone:
            for attempt in range(_TRIES):
                try:
                    return await self._decoder.decode(BytesIO(pack([file])), object())
                except TooManyWaiting as refused:  # the processes were ended from outside
                    if attempt == _TRIES - 1:
                        return refused
                    await asyncio.sleep(_RETRY_SECONDS)
                except PictureRefused as refused:
                    return refused
        raise AssertionError("the last try returns")


def input_batch(pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return the array that a network takes, (N, 3, H, W) in [0, 1], with the values of decoding.to_input.

    A whole batch at once takes a quarter of the time that its pictures take one by one.
    """
    if any(picture.dtype != np.uint8 for picture in pictures):
        return np.stack([_to_input(picture) for picture in pictures])
    levels = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    levels /= np.float32(255)
    return levels


def _to_input(picture: Pixels) -> NDArray[np.float32]:
    if picture.dtype == np.uint8:
        return decoding.to_input(cast(NDArray[np.uint8], picture))
    return cast(NDArray[np.float32], picture)
