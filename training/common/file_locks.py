"""Lock an open file for this process. The kernel holds the lock, so it ends with the process however that ends."""

import errno
import fcntl

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class NoLocks(OSError):
    """The file system has no locks."""


def lock(descriptor: int) -> None:
    """Lock an open file (flock), or find that another process has.

    Network file systems that pass locks on to the server, as NFS does since Linux 2.6.12, hold it across machines too.
    There the lock of a dead machine lasts until its lease ends.

    Args:
        descriptor: The file, which can be written.

    Raises:
        BlockingIOError: Another process holds it.
        NoLocks: The file system has no locks.
        OSError: It cannot be locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocks(error.errno, error.strerror) from None
        raise
