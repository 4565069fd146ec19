"""Kinds of decoder processes, the limits that pictures have in them, and what becomes of a picture."""

import mmap
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sgn_serve.decoder_processes.messages import Outcome


class End(StrEnum):
    """The reason for the end of a decoder process."""

    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"
    AGE = "age"
    """The process has used up the processor time of its lifetime, after an answer. No picture is at fault."""
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    """The fork server and its processes have ended, or the file did not arrive. No picture is at fault."""


@dataclass(frozen=True)
class Result:
    """Tell what became of a picture.

    Attributes:
        outcome: The process's answer, None if it has ended instead.
        text: See messages.Outcome.
        pixels: RGB from 0 to 255, (height, width, 3), where the outcome is PIXELS.
        end: Why the process has ended, None if it has answered.
    """

    outcome: Outcome | None
    text: str = ""
    pixels: NDArray[np.uint8] | None = None
    end: End | None = None

    @property
    def lacks_memory(self) -> bool:
        """Whether the picture takes more memory than its process may have."""
        return self.end is End.MEMORY or self.outcome is Outcome.NO_MEMORY

    @property
    def may_lack_memory(self) -> bool:
        """Whether it takes too much memory, or its process crashed: some decoders crash when memory is refused."""
        return self.lacks_memory or self.end is End.CRASH


@dataclass(frozen=True)
class Kind:
    """A kind of decoder process.

    Attributes:
        large: Whether it is for large pictures.
        file_bytes: Largest file that it takes.
        size: (height, width) in pixels of what it answers.
    """

    large: bool
    file_bytes: int
    size: tuple[int, int]

    @property
    def region_bytes(self) -> int:
        """Size of the memory that it shares with the service, in bytes: for the file, and then for the pixels."""
        height, width = self.size
        return max(self.file_bytes, 3 * height * width, mmap.PAGESIZE)


@dataclass(frozen=True)
class Limits:
    """Limits of a picture.

    Attributes:
        pixels: Most pixels.
        cpu_seconds: Longest CPU time.
        seconds: Longest time between the beginning and the end of its decoding.
    """

    pixels: int
    cpu_seconds: float
    seconds: float
