"""Decode pictures in confined processes: quick ones for small pictures, and one for those that take more.

Every picture is tried in a process with little memory and little time. What is large, or passes these limits, takes
turns in one further process. The memory of the whole service is thus bounded whatever is sent, without knowledge of any
format, and small pictures never wait for large ones.

Where pictures wait for a process, each is tried for a shorter time first. One that takes longer waits again, with
others of its kind (turns.py). A small picture thus waits for short times only, whatever else is sent.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import SEEK_END
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes.child import Bounds
from sgn_serve.decoder_processes.contract import End, Kind, Limits, Result
from sgn_serve.decoder_processes.job import LARGE_PIXELS, PictureOptions
from sgn_serve.decoder_processes.lane import Lane, Waiter
from sgn_serve.decoder_processes.large_pictures import MAX_WAITING, LargePictures
from sgn_serve.decoder_processes.launcher import ForkServer
from sgn_serve.decoder_processes.messages import Outcome
from sgn_serve.decoder_processes.turns import Class
from sgn_serve.pictures import decoding, errors
from sgn_serve.telemetry import metrics

logger = logging.getLogger("bentoml.sgn_serve")

_MIB = 1 << 20
SMALL_MEMORY = 32 * _MIB
"""Address space that decoding a small picture may take."""
LARGE_MEMORY = 192 * _MIB
"""Address space that decoding a large picture may take."""
_BYTES_A_PIXEL_WANTED = 16
"""Bytes of address space added for each pixel of the network's input."""
SMALL_FILE = 2 * _MIB
"""A larger file, in bytes, is a large picture without a look at its header."""
SMALL_CPU_SECONDS = 0.06
_SMALL_SECONDS = 1.0
"""Limits of a small picture. A picture that needs longer is a large one."""
QUICK_FILE = 256 * 1024
QUICK_PIXELS = 128 * 1024
QUICK_CPU_SECONDS = 0.01
_QUICK_SECONDS = 0.3
"""Limits of a quick picture. Where pictures wait, what needs more waits for the quick ones."""
_NO_LIMIT = 0xFFFFFFFF
"""Pixels of a large picture. PictureOptions limits them."""
JOB = "sgn_serve.decoder_processes.job:make_job"
_TRIES = 2
_START_SECONDS = 60.0
_MOST_DIGITS = 12
_CODES = {kind.code: kind for kind in errors.PictureRefused.__subclasses__() if kind is not errors.TooManyWaiting}


@dataclass(frozen=True)
class DecoderLimits:
    """Limits of a decoder.

    Attributes:
        processes: Number of processes for small pictures.
        seconds: Time that all pictures of one request may take together, including the wait for their turn.
        file_bytes: Largest file.
        large_processes: Number of processes for large pictures.
        cpu_seconds: Processor time that a large picture may take. None for as much as `seconds`.
        small_file_bytes: A larger file is a large picture without a look at its header.
        huge_pages: See launcher.ForkServer.
        new_process: Whether a picture that may lack memory in a used process is decoded again in a new one; see Lane.
    """

    processes: int
    seconds: float
    file_bytes: int
    large_processes: int = 1
    cpu_seconds: float | None = None
    small_file_bytes: int = SMALL_FILE
    huge_pages: bool = False
    new_process: bool = False

    @property
    def told_seconds(self) -> float:
        """The limit that a refusal names."""
        return self.seconds if self.cpu_seconds is None else self.cpu_seconds


@dataclass
class _Account:
    """State of a request whose pictures are decoded.

    Attributes:
        deadline: When its pictures must be decoded, by the event loop's clock.
        pictures: Number of its pictures that are not decoded yet.
    """

    deadline: float
    pictures: int = 0


class Decoder:
    """Decodes pictures to the arrays that a network takes.

    A picture whose request is cancelled before its turn is not decoded. A large one that is being decoded ends with its
    request.

    Args:
        options: Options that are the same for every picture.
        limits: Bounds of processes, time and size.
        job: Function that makes the job, as "module:function". Tests give another one.
    """

    def __init__(self, options: PictureOptions, limits: DecoderLimits, job: str = JOB):
        self.options = options
        self.limits = limits
        height, width = options.size
        more = _BYTES_A_PIXEL_WANTED * height * width
        small_bounds, large_bounds = (
            Bounds(memory + more, self.limits.told_seconds, options.needs_threads)
            for memory in (SMALL_MEMORY, LARGE_MEMORY)
        )
        self.fork_server = ForkServer(job, options.as_json(), (small_bounds, large_bounds), self.limits.huge_pages)
        small_file = min(self.limits.small_file_bytes, self.limits.file_bytes)
        quick = Limits(QUICK_PIXELS, QUICK_CPU_SECONDS, _QUICK_SECONDS)
        small = Limits(LARGE_PIXELS, SMALL_CPU_SECONDS, _SMALL_SECONDS)
        large = Limits(_NO_LIMIT, self.limits.told_seconds, self.limits.seconds)
        self.small = Lane(
            self.fork_server,
            Kind(False, small_file, options.size),
            self.limits.processes,
            {Class.QUICK: quick, Class.LONGER: small},
        )
        self.large = Lane(
            self.fork_server,
            Kind(True, self.limits.file_bytes, options.size),
            self.limits.large_processes,
            {Class.QUICK: large, Class.LONGER: large},
            self.limits.new_process,
        )
        self._waiting = LargePictures(MAX_WAITING - 1 + self.limits.large_processes)
        self._accounts: dict[Hashable, _Account] = {}

    async def start(self) -> None:
        """Start the processes, and log what confines them.

        Raises:
            OSError: They cannot be started.
        """
        await self.fork_server.start()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.gather(self.small.start(), self.large.start())
        except TimeoutError:
            raise OSError("the processes that decode pictures do not start") from None
        confined = self.small.confinement
        assert confined is not None, "one of its processes has started"
        for means in confined.means():
            metrics.CONFINEMENT.labels(means).set(1)
        logger.info(
            "pictures are decoded in %d processes, confined by %s: %d MiB for a small picture, %d MiB for a large one",
            len(self.small.processes) + len(self.large.processes),
            confined,
            SMALL_MEMORY // _MIB,
            LARGE_MEMORY // _MIB,
        )

    async def close(self) -> None:
        """End the processes."""
        self.small.close()
        self.large.close()
        await self.fork_server.close()

    async def decode(
        self,
        file: IO[bytes],
        request: Hashable,
        step_aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> NDArray[np.float32]:
        """Decode a picture file.

        Args:
            file: The file, at its beginning.
            request: The request that the picture belongs to. Requests take turns, and have a time limit each.
            step_aside: Makes a context manager around the wait of a large picture and its decoding.

        Returns:
            RGB in [0, 1], (3, H, W).

        Raises:
            PictureRefused: The file cannot be decoded, or too many large pictures of other requests wait.
        """
        length = file.seek(0, SEEK_END)
        file.seek(0)
        if length > self.limits.file_bytes:
            raise errors.TooManyPixels(f"the file has {length} bytes, more than {self.limits.file_bytes}")
        with self._deadline(request) as deadline:
            if length <= self.small.kind.file_bytes:
                result = await self._decode_small(file, length, request, deadline)
                if not (_needs_more(result) or (self.limits.new_process and result.may_lack_memory)):
                    return self._array(result)
            with self._waiting.wait(request, self.large.seconds_each), step_aside():
                return self._array(await self._decode(self.large, file, Waiter(request, deadline)))

    async def _decode_small(self, file: IO[bytes], length: int, request: Hashable, deadline: float) -> Result:
        """Have a picture decoded as a small one: at once, or else as a quick one first."""
        at_once = self.small.decode_now(file)
        result = None if at_once is None else await at_once
        if result is not None and result.end is not End.STOPPED:
            return result
        if length <= QUICK_FILE:
            result = await self._decode(self.small, file, Waiter(request, deadline, Class.QUICK))
            if not _is_longer(result):
                return result
        return await self._decode(self.small, file, Waiter(request, deadline))

    async def _decode(self, lane: Lane, file: IO[bytes], waiter: Waiter) -> Result:
        """Have a picture decoded in a lane: again, if its process has ended with the fork server."""
        for _ in range(_TRIES):
            file.seek(0)
            try:
                result = await lane.decode(file, waiter)
            except TimeoutError:
                if lane is self.large and not self._waiting.others(waiter.request):
                    raise self._too_slow() from None
                raise errors.TooManyWaiting(max(1, math.ceil(lane.seconds_each))) from None
            if result.end is not End.STOPPED:
                return result
        raise errors.TooManyWaiting(1)

    @contextmanager
    def _deadline(self, request: Hashable) -> Iterator[float]:
        """Yield when the pictures of a request must be decoded. The first of them starts its time."""
        if request not in self._accounts:
            self._accounts[request] = _Account(asyncio.get_running_loop().time() + self.limits.seconds)
        account = self._accounts[request]
        account.pictures += 1
        try:
            yield account.deadline
        finally:
            account.pictures -= 1
            if not account.pictures:
                del self._accounts[request]

    def _array(self, result: Result) -> NDArray[np.float32]:
        """Return what became of a picture as an array, or raise what it is refused for."""
        if result.pixels is not None:
            return decoding.to_input(result.pixels)
        if result.end is End.TIME:
            raise self._too_slow()
        if result.lacks_memory:
            raise errors.TooManyPixels(
                f"decoding the picture takes more than {LARGE_MEMORY // _MIB} MiB of memory; send a smaller one"
            )
        if result.outcome is Outcome.REFUSED:
            raise _refusal(result.text)
        if result.outcome is Outcome.FAILED:
            logger.warning("a picture's decoder has failed: %s", result.text)
            raise errors.DamagedImage("the picture is damaged: its decoder has failed")
        logger.warning("a picture's decoder has crashed")
        raise errors.DecoderCrashed("the picture has crashed its decoder; save it anew, perhaps in another format")

    def _too_slow(self) -> errors.TooSlow:
        return errors.TooSlow(f"the request's pictures take more than {self.limits.told_seconds:g} s to decode")


def _needs_more(result: Result) -> bool:
    """Return whether a picture may need more than a process for small pictures has."""
    return result.outcome is Outcome.LARGE or result.end is End.TIME or result.lacks_memory


def _is_longer(result: Result) -> bool:
    """Return whether a picture that was tried as a quick one may still be a small one."""
    if result.outcome is Outcome.LARGE:
        return len(result.text) <= _MOST_DIGITS and result.text.isdecimal() and int(result.text) <= LARGE_PIXELS
    return result.end is End.TIME


def _refusal(text: str) -> errors.PictureRefused:
    """Return the refusal that a process tells. A process may tell anything, if a picture has taken it over."""
    try:
        code, message = json.loads(text)
        return _CODES[code](" ".join(str(message).split()))
    except (ValueError, TypeError, KeyError):
        return errors.DamagedImage("the picture is damaged: its decoder tells nothing that makes sense")
