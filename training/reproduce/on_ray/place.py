"""Check that a machine of a cluster sees the folders of a run: a shared file system."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.common.errors import TrainingError
from training.common.files import write_atomically
from training.evaluate.on_ray.subject import check_software, software

_MOST_NAMES = 1000
"""Names in the folder of the data that are compared."""


class PlaceError(TrainingError):
    """A machine does not see a folder, or has other software. The message has no name of the machine."""


@dataclass(frozen=True)
class Place:
    """The folders of a run, and the software of the machine where the command runs.

    Attributes:
        folder: The folder that the command runs in, absolute. Its folder runs is written to.
        marker: A file in it.
        token: Content of the marker.
        data_root: The folder of the pictures, absolute.
        data_names: Names of what lies there.
        software: Versions and code, by name.
    """

    folder: Path
    marker: Path
    token: str
    data_root: Path
    data_names: tuple[str, ...]
    software: dict[str, str]

    def check(self) -> None:
        """Check that this machine sees the folders, and has the software.

        Raises:
            PlaceError: It does not see a folder.
            MachineError: Its software is another one.
        """
        check_software(self.software)
        try:
            seen = self.marker.read_text() == self.token
        except OSError:
            seen = False
        if not seen:
            raise PlaceError(_unseen(self.folder / "runs"))
        try:
            missing = set(self.data_names) - set(os.listdir(self.data_root))
        except OSError:
            raise PlaceError(_unseen(self.data_root)) from None
        if missing:
            raise PlaceError(f"{_unseen(self.data_root)}; it lacks {min(missing)} there")


def _unseen(folder: Path) -> str:
    return (
        f"it does not see {folder} as the machine of the command does; every machine needs it under the same path, "
        "such as on a network file system"
    )


@contextmanager
def place_here(data_root: Path) -> Iterator[Place]:
    """Return the place of a run that this process begins, and leave a marker there for a while.

    Args:
        data_root: The folder of the pictures.

    Raises:
        WriteError: The folder of the runs cannot be written to.
    """
    folder = Path.cwd()
    token = secrets.token_hex(16)
    marker = folder / "runs" / f".on-ray-{token}"
    names = tuple(sorted(os.listdir(data_root))[:_MOST_NAMES])
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, token.encode())
    try:
        yield Place(folder, marker, token, data_root.absolute(), names, software())
    finally:
        marker.unlink(missing_ok=True)


def fault_of(place: Place) -> str:
    """Return why this machine cannot take part, with its name, "" where it can. Ray calls it on each machine.

    Args:
        place: The place of the run.
    """
    try:
        place.check()
    except TrainingError as error:
        return f"{socket.gethostname()}: {error}"
    return ""
