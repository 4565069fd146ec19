"""Start decoder processes: a small process that has loaded Pillow and forks whenever it is told to.

A fork takes milliseconds and shares its memory, where a new Python would take a third of a second. The service itself
cannot fork: it has threads, and memory that a decoder must not see. It starts this program with few variables in the
environment, and with one socket, on which it sends orders (messages.py).
"""

import gc
import importlib
import json
import mmap
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sgn_serve.common.parent_process import end_with_starting_thread
from sgn_serve.decoder_processes import child
from sgn_serve.decoder_processes.job import Job
from sgn_serve.decoder_processes.messages import ENDED, FORK, NO_MEMORY_STATUS, ORDER
from sgn_serve.process.confinement import close_other_files

READY = b"R"
_NICENESS = 5
"""A large picture leaves most of a core to small ones, and to the service, where there are not cores enough for all."""
_LENGTH = 4


def main() -> None:
    """Run the fork server. Arguments: the number of the socket, and the process id of the service."""
    control = socket.socket(fileno=int(sys.argv[1]))
    service = int(sys.argv[2])
    end_with_starting_thread()
    if os.getppid() != service:
        return  # it has ended before
    # The service ends this process itself, when all pictures are answered: a signal to the whole group is not for it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    length = int.from_bytes(control.recv(_LENGTH, socket.MSG_WAITALL), "little")
    orders = json.loads(control.recv(length, socket.MSG_WAITALL))
    module, name = orders["job"].split(":")
    job = getattr(importlib.import_module(module), name)(**orders["options"])
    os.environ.clear()
    _silence()
    gc.collect()
    gc.freeze()  # a collection in a child would write to pages that it shares
    _ForkServer(control, job, [child.Bounds(**bounds) for bounds in orders["bounds"]]).run()


class _ForkServer:
    """Carry out orders until the service closes the socket.

    Args:
        control: The socket to the service.
        job: Decodes a file.
        bounds: Those of a process for small pictures, and of one for large ones.
    """

    def __init__(self, control: socket.socket, job: Job, bounds: list[child.Bounds]):
        self._control = control
        self._job = job
        self._bounds = bounds
        self._children: dict[int, int] = {}

    def run(self) -> None:
        """Carry out orders, and tell of every process that ends."""
        wake, woken = socket.socketpair()
        woken.setblocking(False)
        signal.set_wakeup_fd(woken.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        self._control.sendall(READY)
        while True:
            for number, _ in poll.poll():
                if number == wake.fileno():
                    wake.recv(1024)
                    self._reap()
                elif not self._carry_out():
                    return

    def _carry_out(self) -> bool:
        """Carry out one order. Return whether there may be more."""
        try:
            head, files, _, _ = socket.recv_fds(self._control, ORDER.size, 2)
        except ConnectionError:
            return False
        if len(head) < ORDER.size:
            return False
        order, number, large = ORDER.unpack(head)
        if order == FORK:
            self._fork(number, large, files)
        else:
            for pid, started in self._children.items():
                if started == number:
                    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        return True

    def _fork(self, number: int, large: bool, files: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # there may be no more processes
            self._control.sendall(ENDED.pack(number, -1))
            pid = -1
        if pid == 0:
            _be_a_child(parent, files, self._job, self._bounds[large], large)
        for file in files:
            os.close(file)
        if pid > 0:
            self._children[pid] = number

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if status == signal.SIGKILL and used.ru_utime + used.ru_stime > child.LIFE_CPU_SECONDS:
                    status = signal.SIGXCPU  # its limit of processor time ended it, not want of memory
                self._control.sendall(ENDED.pack(self._children.pop(pid), status))


def _be_a_child(parent: int, files: list[int], job: Job, bounds: child.Bounds, large: bool) -> NoReturn:
    """Be a decoder process from now on. It never returns to the fork server's own loop."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_starting_thread()
        if os.getppid() == parent:
            connection, region = socket.socket(fileno=files[0]), mmap.mmap(files[1], 0)
            close_other_files((files[0],))  # closes the descriptor that mmap keeps for itself too
            with suppress(OSError):  # where the machine has no memory left, the kernel ends decoders first
                Path("/proc/self/oom_score_adj").write_text("500")
            if large:
                os.nice(_NICENESS)
            child.serve(connection, region, job, bounds)
            status = 0
    except MemoryError:
        status = NO_MEMORY_STATUS
    except ConnectionError:  # the service has gone
        status = 0
    finally:
        os._exit(status)


def _silence() -> None:
    """Send to nowhere what libraries such as libtiff write on the standard error output: the log is JSON."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


if __name__ == "__main__":
    main()
