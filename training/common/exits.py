"""End a command with one line on standard error and an exit status."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sgn_serve.common.error_text import first_line, say
from sgn_serve.common.interrupts import INTERRUPTED
from sgn_serve.common.termination import TERMINATED, Terminated
from training.common.devices import gib
from training.common.errors import TrainingError

_ALLOCATION = re.compile(r"you tried to allocate (\d+) bytes")
"""PyTorch's words for memory that a processor lacks."""

ENDINGS = (TrainingError, torch.OutOfMemoryError, KeyboardInterrupt, Terminated)
"""All that may end a command besides success. Every other exception is a programming error and keeps its traceback."""

MORE_MEMORY = "close other programs, or use a machine with more memory"
"""The fix where a network alone is too large for the memory."""


@contextmanager
def allocations_told() -> Iterator[None]:
    """Raise torch.OutOfMemoryError where memory cannot be had on a CPU. PyTorch raises it for GPUs alone."""
    try:
        yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(first_line(error)) from error
    except RuntimeError as error:
        found = _ALLOCATION.search(str(error))
        if found is None:
            raise
        raise torch.OutOfMemoryError(f"{gib(int(found[1]))} were asked for") from error


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory cannot be had, which allocations_told tells."""
    return isinstance(error, MemoryError) or _ALLOCATION.search(str(error)) is not None


def print_ending(
    error: BaseException, *, out_of_memory: str, interrupted: str, device: torch.device | str = "", after: str = ""
) -> int:
    """Print why a command ends, and return its exit status.

    Args:
        error: One of ENDINGS.
        out_of_memory: The fix where the memory is too small.
        interrupted: Effect of the same command after an interruption. "" prints nothing.
        device: The device whose memory is too small; "" leaves it open.
        after: The line's end after a TrainingError.

    Returns:
        2, or what the TrainingError says; 130 after Ctrl-C and 143 after SIGTERM, as shells expect.
    """
    if isinstance(error, TrainingError):
        say(f"error: {error}{after}")
        return error.exit_status
    if isinstance(error, torch.OutOfMemoryError):
        where = f" on {device}" if device else ""
        say(f"error: out of memory{where} ({first_line(error)}); {out_of_memory}")
        return TrainingError.exit_status
    if interrupted:
        say(f"interrupted; {interrupted}")
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
