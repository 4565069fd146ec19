"""Keep a run's folder to one training at a time."""

import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from sgn_serve.common.error_text import say
from training.common.errors import TrainingError
from training.common.file_locks import NoLocks, lock
from training.common.files import WriteError

LOCK = "run.lock"
"""The file in a run's folder that its training holds locked, and that says whose it is."""

HANDED_OUT = "SGN_HANDED_OUT"
"""Environment variable of a training that a command hands out to machines. That command sees that there is one."""


class RunInUse(TrainingError):
    """Another training has the folder. The message names its process, its host and when it began."""


class RunLost(TrainingError):
    """The folder belongs to another training now, or to none. The message names it."""


@dataclass(frozen=True)
class Owner:
    """The training that has a run's folder.

    Attributes:
        process: Its process id.
        host: Name of its machine.
        boot: The kernel's id of this boot, the same in all containers; "" where there is none.
        started: Local time at which it took the folder, in ISO format.
        handed_out: Whether a command handed it out, which may hand it out again.
        number: A random number, which no other training has.
    """

    process: int
    host: str
    boot: str
    started: str
    handed_out: bool = False
    number: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def this_process(cls) -> "Owner":
        """Return this process as an owner from now on."""
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _boot(), started, HANDED_OUT in os.environ)

    def elsewhere(self) -> bool:
        """Return whether the owner was on another machine, where this one's kernel does not see it."""
        same_boot = bool(self.boot) and self.boot == _boot()
        return not same_boot and self.host != socket.gethostname()

    def gives_way_to(self, other: "Owner") -> bool:
        """Return whether another training may take the folder over while this one may be running."""
        return self.handed_out and other.handed_out

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"process {self.process} on {self.host}, since {self.started}"


class RunLock:
    """A run's folder that a training holds.

    Args:
        path: The file that is locked.
        owner: The training.
    """

    def __init__(self, path: Path, owner: Owner):
        self._path = path
        self._owner = owner

    def check(self) -> None:
        """Check that the folder is still this training's, before something is written there.

        Raises:
            RunLost: It is another one's.
            WriteError: That cannot be seen.
        """
        owner = self._recorded()
        if owner != self._owner:
            now = f"now belongs to another training ({owner})" if owner else f"is no longer locked: {LOCK} is gone"
            raise RunLost(f"{self._path.parent} {now}; this training ends, and writes nothing more there")

    def release(self) -> None:
        """Remove the file, unless it is another training's by now."""
        with suppress(OSError, WriteError):
            if self._recorded() == self._owner:
                self._path.unlink()

    def _recorded(self) -> Owner | None:
        """Return the owner that the folder names now, None where it names none.

        Raises:
            WriteError: That cannot be seen.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY)  # which asks a file server for what is there now
            try:
                return _read(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise WriteError.of(self._path, error) from None


@contextmanager
def run_lock(folder: Path) -> Iterator[RunLock]:
    """Hold a run's folder. It is made where it is missing, and removed again where nothing was written to it.

    The kernel holds the lock, so it ends with the process however that ends. The lock of a dead one is taken over.
    Not every network file system holds it across machines, so the record of a training on another machine is not taken
    over: somebody who knows that it has ended removes it. A file system without locks protects nothing, and that is
    told.

    Trainings that a command hands out take over from each other all the same. That command hands one out again only
    where it takes the one before for dead. If it is not, it finds at its next save that the folder is another's.

    Args:
        folder: The run's folder.

    Raises:
        RunInUse: Another training has it, or one on another machine may have it.
        WriteError: The lock cannot be written.
    """
    path, owner = folder / LOCK, Owner.this_process()
    try:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path, owner)
    except OSError as error:
        raise WriteError.of(path, error) from None
    try:
        _take_over(path, descriptor, owner)
        held = RunLock(path, owner)
        try:
            yield held
        finally:
            # It is removed while it is held: whoever waits for it finds that it is not the folder's any more.
            held.release()
    finally:
        os.close(descriptor)
        with suppress(OSError):  # a folder may not be empty
            for made in missing:
                made.rmdir()


def _locked(path: Path, owner: Owner) -> int:
    """Open and lock the file, and return its descriptor.

    Raises:
        RunInUse: Another process holds it.
        OSError: It cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(descriptor)
            if _is_still_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            before = _read(descriptor)
            os.close(descriptor)
            if before is None or not before.gives_way_to(owner):
                raise RunInUse(
                    f"{path.parent} belongs to a training that is running ({before or 'another process'}); wait for it "
                    "or end it, or give another --run"
                ) from None
            _replace(path, owner)
            continue
        except NoLocks as error:
            say(
                f"note: the file system of {path.parent} has no locks ({error.strerror}), so a second training in "
                "it would not be noticed",
            )
            return descriptor
        except OSError:
            os.close(descriptor)
            raise
        # The owner before removed it between the two calls.
        os.close(descriptor)


def _replace(path: Path, owner: Owner) -> None:
    """Put another file in the place of one that a process holds locked, which may be dead.

    Raises:
        OSError: It cannot be written.
    """
    other = path.with_name(f"{LOCK}.{owner.number}")
    try:
        other.write_text(_record(owner))
        os.replace(other, path)
    except BaseException:
        with suppress(OSError):
            other.unlink()
        raise


def _take_over(path: Path, descriptor: int, owner: Owner) -> None:
    """Write this process into the file.

    Raises:
        RunInUse: A training on another machine left the file.
        WriteError: It cannot be written.
    """
    before = _read(descriptor)
    if before is not None and before.elsewhere() and not before.gives_way_to(owner):
        raise RunInUse(
            f"{path.parent} belongs to a training on another machine ({before}), and whether it still runs cannot be "
            f"seen from here; if it has ended, remove {path}, otherwise give another --run"
        )
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _record(owner).encode(), 0)
    except OSError as error:
        raise WriteError.of(path, error) from None


def _record(owner: Owner) -> str:
    return json.dumps(asdict(owner)) + "\n"


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
