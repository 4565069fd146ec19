"""What BentoML's supervisor leaves out: it replaces dead workers at once, passes reloads on, and closes the door first.

`bentoml serve` starts its workers with circus and BentoML's Arbiter. Left alone that looks for dead workers every ten
seconds only and, in a container, never replaces one; SIGHUP replaces every worker, whether its successor can start or
not; and on SIGTERM the port stays open, with nobody behind it, until the last request is answered.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bentoml._internal.utils.circus as bentoml_circus
from prometheus_client.multiprocess import mark_process_dead

from sgn_serve.process.parent import CANNOT_SERVE, PID_VARIABLE

_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 30.0
_BUSY_SECONDS = 0.05


def use_supervisor() -> None:
    """From now on, in this process, BentoML supervises its workers with Supervisor."""
    os.environ[PID_VARIABLE] = str(os.getpid())
    bentoml_circus.Arbiter = Supervisor  # type: ignore[misc]


class Supervisor(bentoml_circus.Arbiter):
    """Keeps as many workers running as there should be.

    A worker that says it cannot serve is not started again while no other serves: then the supervisor ends too, with
    status 1. While others serve, it is tried again every 30 s.
    """

    def __init__(self, watchers: list[Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(watchers, *args, **{**kwargs, "check_delay": _CHECK_SECONDS})
        self._nothing_to_serve = False
        for watcher in watchers:
            watcher.respawn = True
            watcher.hooks["after_reap"] = self._after_reap

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Runs until it is told to stop. raises SystemExit where no worker can serve"""
        try:
            super().start(cb)
        except RuntimeError:  # circus: no active process
            if not self._nothing_to_serve:
                raise
            self.exit_stack.close()
            raise SystemExit(1) from None

    def stop(self) -> None:
        """Refuses new connections from now on, as soon as the workers do too, and has them finish what they took."""
        if self._exclusive_running_command not in (None, "arbiter_stop"):
            # circus would drop the command, and the signal that it stands for.
            self.loop.call_later(_BUSY_SECONDS, self.stop)
            return
        self.sockets.close_all()
        super().stop()

    def reload(self, graceful: bool = True, sequential: bool = False) -> None:
        """SIGHUP: has every worker look at its model file again. One that is starting does so when it listens."""
        for watcher in self.iter_watchers():
            for process in watcher.processes.values():
                if _catches(process.pid, signal.SIGHUP):
                    process.send_signal(signal.SIGHUP)

    def _after_reap(self, watcher: Any, process_pid: int, exit_code: int, **_: Any) -> None:
        folder = watcher.env.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            mark_process_dead(process_pid, folder)  # type: ignore[no-untyped-call]
        # Any other end is made good at once, and so is one that leaves nobody to serve while a retry is still due.
        watcher.respawn = exit_code != CANNOT_SERVE
        self._nothing_to_serve = not watcher.respawn and not watcher.processes
        if not watcher.respawn:
            self.loop.call_later(_RETRY_SECONDS, setattr, watcher, "respawn", True)


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise; True where that cannot be told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return not Path("/proc/self/status").exists()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (number - 1) & 1)
