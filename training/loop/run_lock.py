"""Keep a run's folder to one training at a time."""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from training.common.errors import TrainingError
from training.common.files import WriteError

LOCK = "run.lock"
"""The file in a run's folder that its training holds locked, and that says whose it is."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class RunInUse(TrainingError):
    """Another training has the folder. The message names its process, its host and when it began."""


@dataclass(frozen=True)
class Owner:
    """The training that has a run's folder.

    Attributes:
        process: Its process id.
        host: Name of its machine.
        boot: The kernel's id of this boot, the same in all containers; "" where there is none.
        started: Local time at which it took the folder, in ISO format.
    """

    process: int
    host: str
    boot: str
    started: str

    @classmethod
    def this_process(cls) -> "Owner":
        """Return this process as an owner from now on."""
        return cls(
            os.getpid(), socket.gethostname(), _boot(), datetime.now().astimezone().isoformat(timespec="seconds")
        )

    def elsewhere(self) -> bool:
        """Return whether the owner was on another machine, where this one's kernel does not see it."""
        same_boot = bool(self.boot) and self.boot == _boot()
        return not same_boot and self.host != socket.gethostname()

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"process {self.process} on {self.host}, since {self.started}"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder. It is made where it is missing, and removed again where nothing was written to it.

    The kernel holds the lock (flock), so it ends with the process however that ends. The lock of a dead one is taken
    over. Network file systems that pass locks on to the server, as NFS does since Linux 2.6.12, hold it across machines
    too. Others do not, so the record of a training on another machine is never taken over: somebody who knows that it
    has ended removes it. A file system without locks protects nothing, and that is told.

    Args:
        folder: The run's folder.

    Raises:
        RunInUse: Another training has it, or one on another machine may have it.
        WriteError: The lock cannot be written.
    """
    path = folder / LOCK
    try:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    except OSError as error:
        raise WriteError.of(path, error) from None
    try:
        _take_over(path, descriptor)
        try:
            yield
        finally:
            # It is removed while it is held: whoever waits for it finds that it is not the folder's any more.
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)
        with suppress(OSError):  # a folder may not be empty
            for made in missing:
                made.rmdir()


def _locked(path: Path) -> int:
    """Open and lock the file, and return its descriptor.

    Raises:
        RunInUse: Another process holds it.
        OSError: It cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            owner = _read(descriptor)
            os.close(descriptor)
            raise RunInUse(
                f"{path.parent} belongs to a training that is running ({owner or 'another process'}); wait for it or "
                "end it, or give another --run"
            ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                print(
                    f"note: the file system of {path.parent} has no locks ({error.strerror}), so a second training in "
                    "it would not be noticed",
                    file=sys.stderr,
                    flush=True,
                )
                return descriptor
            os.close(descriptor)
            raise
        # The owner before removed it between the two calls.
        os.close(descriptor)


def _take_over(path: Path, descriptor: int) -> None:
    """Write this process into the file.

    Raises:
        RunInUse: A training on another machine left the file.
        WriteError: It cannot be written.
    """
    before = _read(descriptor)
    if before is not None and before.elsewhere():
        raise RunInUse(
            f"{path.parent} belongs to a training on another machine ({before}), and whether it still runs cannot be "
            f"seen from here; if it has ended, remove {path}, otherwise give another --run"
        )
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(asdict(Owner.this_process())) + "\n").encode(), 0)
    except OSError as error:
        raise WriteError.of(path, error) from None


def _read(descriptor: int) -> Owner | None:
    """Return the owner that the file names, None where it names none."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):  # empty, or a kill left part of it
        return None


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Return whether the path leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
