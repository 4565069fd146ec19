"""Share decoder processes between the predictor that answers and the one that is about to replace it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes.decoder import JOB, Decoder, DecoderLimits
from sgn_serve.decoder_processes.job import PictureOptions


@dataclass
class _Shared:
    """A decoder, and who uses it.

    Attributes:
        decoder: The decoder.
        start: The task that starts it.
        users: Number of its users.
    """

    decoder: Decoder
    start: asyncio.Task[None]
    users: int = 0


_SHARED: dict[Hashable, _Shared] = {}
"""The decoders that run, by event loop, options, limits and job."""


class SharedDecoder:
    """A decoder, whose processes are those of every other one that has the same options and is used at the same time.

    A reload thus starts no processes, unless the new network wants pictures of another size.

    Args:
        options: See Decoder.
        limits: See Decoder.
        job: See Decoder.
    """

    def __init__(self, options: PictureOptions, limits: DecoderLimits, job: str = JOB):
        self._options = options
        self._limits = limits
        self._job = job
        self._key: Hashable = None
        self._decoder: Decoder | None = None

    async def start(self) -> None:
        """Start the processes, or take those that run.

        Raises:
            OSError: They cannot be started.
        """
        loop = asyncio.get_running_loop()
        self._key = (loop, self._options, self._limits, self._job)
        if self._key not in _SHARED:
            decoder = Decoder(self._options, self._limits, self._job)
            _SHARED[self._key] = _Shared(decoder, loop.create_task(decoder.start()))
        shared = _SHARED[self._key]
        shared.users += 1
        self._decoder = shared.decoder
        await asyncio.shield(shared.start)

    async def close(self) -> None:
        """End the processes, unless somebody else uses them. Nothing happens before start."""
        if self._decoder is None:
            return
        self._decoder = None
        shared = _SHARED[self._key]
        shared.users -= 1
        if not shared.users:
            del _SHARED[self._key]
            shared.start.cancel()
            await asyncio.gather(shared.start, return_exceptions=True)
            await shared.decoder.close()

    def decode(
        self,
        file: IO[bytes],
        request: Hashable,
        step_aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Awaitable[NDArray[np.float32]]:
        """Decode a picture file; see Decoder.decode. It must have been started."""
        assert self._decoder is not None, "pictures come after the start"
        return self._decoder.decode(file, request, step_aside)
