"""Check that a machine of a cluster sees the folders of a run: a shared file system."""

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sgn_serve.common.error_text import one_line
from training.common.errors import TrainingError
from training.common.file_locks import lock
from training.common.files import write_atomically
from training.evaluate.on_ray.subject import check_software, software

_MOST_NAMES = 1000
"""Names in the folder of the data that are compared."""
_MARKER = ".on-ray-"
_NEW_SECONDS = 60.0
"""Age up to which a command may not have locked its marker yet."""
_OLD_SECONDS = 30 * 86400.0
"""Age from which a marker of another machine is taken for that of a command that was killed."""


class PlaceError(TrainingError):
    """A machine does not see a folder, or cannot write to it. The message has no name of the machine."""


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
        """Check that this machine sees the folders, can write to that of the runs, and has the software.

        Raises:
            PlaceError: It does not see a folder, or cannot write there.
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
            with tempfile.NamedTemporaryFile(prefix=f"{self.marker.name}-", dir=self.marker.parent) as file:
                file.write(b"x")
        except OSError as error:
            raise PlaceError(
                f"it cannot write to {self.marker.parent} ({error.strerror or one_line(error)}); every machine must, "
                "as the user that Ray runs as there"
            ) from None
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

    Markers of commands that were killed are removed.

    Args:
        data_root: The folder of the pictures.

    Raises:
        WriteError: The folder of the runs cannot be written to.
        PlaceError: The folder of the pictures cannot be read.
    """
    folder = _folder_here()
    token = f"{secrets.token_hex(16)} {socket.gethostname()}"
    marker = folder / "runs" / f"{_MARKER}{token[:32]}"
    try:
        names = tuple(sorted(os.listdir(data_root))[:_MOST_NAMES])
    except OSError as error:
        raise PlaceError(f"{data_root}: cannot be read ({error.strerror or one_line(error)})") from None
    write_atomically(marker, token.encode())
    with ExitStack() as held:
        held.callback(_remove, marker)
        with suppress(OSError):  # there may be no locks
            lock(held.enter_context(marker.open("r+b")).fileno())
        _remove_old(marker)
        yield Place(folder, marker, token, folder / data_root, names, software())


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _folder_here() -> Path:
    """Return the folder that this process works in, under the name that the shell has for it.

    A mount that is reached by a symbolic link may have another place behind it on another machine.
    """
    named = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, os.curdir):
            return Path(named)
    return Path.cwd()


def _remove_old(own: Path) -> None:
    """Remove the markers that killed commands have left: those of this machine, and old ones of others.

    A marker that a command still needs is locked. Not every network file system says so of another machine's.
    """
    for path in own.parent.glob(f"{_MARKER}*"):
        if path == own:
            continue
        with suppress(OSError), path.open("r+b") as file:
            lock(file.fileno())
            here = file.read().decode(errors="replace").endswith(f" {socket.gethostname()}")
            if time.time() - path.stat().st_mtime > (_NEW_SECONDS if here else _OLD_SECONDS):
                path.unlink()


def fault_of(place: Place) -> str:
    """Return why this machine cannot take part, with its name, "" where it can. Ray calls it on each machine.

    Args:
        place: The place of the run.
    """
    try:
        place.check()
    except (TrainingError, OSError) as error:
        return f"{socket.gethostname()}: {one_line(error)}"
    return ""
