"""Share the time of some processes between pictures that may be quick and those that take longer."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from sgn_serve.decoder_processes.fair_queue import FairQueue

Item = TypeVar("Item")


class Class(IntEnum):
    """Classes of pictures that wait."""

    QUICK = 0
    """Pictures that were not tried yet, in files that are not large."""
    LONGER = 1
    """Pictures that took longer than a quick one may, or that lie in larger files."""


@dataclass(frozen=True)
class Share:
    """The share of a class in the time.

    Attributes:
        weight: How much of the time it gets, compared with the other class, while both wait.
        seconds: Longest time that a picture of the class takes. It counts for one until it is decoded.
    """

    weight: float
    seconds: float


@dataclass
class _Line(Generic[Item]):
    """The pictures of one class that wait.

    Attributes:
        share: The class's share.
        items: The pictures.
        used: Seconds that the class has used, divided by its weight.
    """

    share: Share
    items: FairQueue[Item] = field(default_factory=FairQueue)
    used: float = 0.0


class Turns(Generic[Item]):
    """Holds pictures of two classes. While both wait, each gets its share of the time; alone, one gets all of it.

    Nobody knows what a picture takes before it is decoded. One that was not tried yet thus gets a short time first,
    and waits for the short times of others only. One that takes longer waits for others of its kind. The shares make
    sure that neither class waits for ever, whatever comes in the other. It is start-time fair queueing of two classes.
    Source: Goyal, Vin and Cheng, "Start-time fair queueing", SIGCOMM 1996.

    Args:
        quick: Share of the pictures that may be quick.
        longer: Share of those that take longer.
    """

    def __init__(self, quick: Share, longer: Share):
        self._lines: dict[Class, _Line[Item]] = {Class.QUICK: _Line(quick), Class.LONGER: _Line(longer)}
        self._now = 0.0
        """Virtual time: time used by the class of the last turn, when its turn came."""

    def __len__(self) -> int:
        """Return the number of pictures that wait."""
        return sum(len(line.items) for line in self._lines.values())

    def put(self, kind: Class, request: Hashable, item: Item) -> None:
        """Add a picture behind those of its class and request."""
        line = self._lines[kind]
        if not line.items:  # a class without waiting pictures earns no time in advance
            line.used = max(line.used, self._now)
        line.items.put(request, item)

    def pop(self) -> tuple[Class, Item]:
        """Remove the picture whose turn it is, and count the longest time of its class for it.

        Returns:
            Its class, for settle, and the picture.

        Raises:
            IndexError: None waits.
        """
        waiting = [kind for kind, line in self._lines.items() if line.items]
        if not waiting:
            raise IndexError("no picture waits")
        kind = min(waiting, key=lambda kind: (self._lines[kind].used, kind))
        line = self._lines[kind]
        self._now = line.used
        line.used += line.share.seconds / line.share.weight
        return kind, line.items.pop()

    def settle(self, kind: Class, seconds: float) -> None:
        """Count the time that a picture has taken in place of the longest one of its class."""
        line = self._lines[kind]
        line.used += (seconds - line.share.seconds) / line.share.weight

    def remove(self, kind: Class, request: Hashable, item: Item) -> None:
        """Remove a picture before its turn. Nothing happens if it is not there any more."""
        self._lines[kind].items.remove(request, item)
