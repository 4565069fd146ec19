"""Supervise the workers: replace dead ones at once, pass reloads on, and close the port first at the end.

`bentoml serve` starts its workers with circus and BentoML's Arbiter. Left alone that looks for dead workers every ten
seconds only and, in a container, never replaces one. SIGHUP replaces every worker, whether its successor can start or
not. On SIGTERM the port stays open, with nobody behind it, until the last request is answered.
"""

import errno
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from sgn_serve.common.error_text import say
from sgn_serve.process.bentoml_internals import BentomlArbiter, use_arbiter
from sgn_serve.process.page_path import PAGE
from sgn_serve.process.worker_start import CANNOT_SERVE, PID_VARIABLE

logger = logging.getLogger("bentoml.sgn_serve")

_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 30.0
_BUSY_SECONDS = 0.05
_OTHER_PORTS = (3001, 3002)
"""Ports to name where one is taken: the second where that is the first."""
_PORT_REFUSED = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
"""Errors of bind: the port is taken, the address is of another machine, or the port is reserved for root."""


def use_supervisor() -> None:
    """Make BentoML supervise its workers with Supervisor, from now on, in this process."""
    os.environ[PID_VARIABLE] = str(os.getpid())
    use_arbiter(Supervisor)


def _is_no_bind_error(record: logging.LogRecord) -> bool:
    """Return whether circus logs something else than a port that it cannot listen on. It logs that twice."""
    return not record.getMessage().startswith("Could not bind")


class Supervisor(BentomlArbiter):
    """Keep as many workers running as there should be.

    A worker that says it cannot serve is not started again while no other serves: then the supervisor ends too, with
    status 1. While others serve, it is tried again every 30 s.
    """

    def __init__(self, watchers: list[Any], *arguments: Any, **options: Any) -> None:
        super().__init__(watchers, _CHECK_SECONDS, self._after_exit, *arguments, **options)
        self._nothing_to_serve = False

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Run until told to stop.

        Raises:
            SystemExit: No worker can serve, or the port cannot be listened on.
        """

        def started(result: Any) -> None:
            logger.info("the page to try the network on: %s", self.page_address(PAGE))
            if cb is not None:
                cb(result)

        logging.getLogger("circus").addFilter(_is_no_bind_error)  # it is told below, with what to do
        try:
            super().start(started)
        except OSError as error:
            if error.errno not in _PORT_REFUSED:
                raise
            self.leave()
            say(f"error: {self._refused(error)}")
            raise SystemExit(1) from None
        except RuntimeError:  # circus: no active process
            if not self._nothing_to_serve:
                raise
            self.leave()
            raise SystemExit(1) from None

    def _refused(self, error: OSError) -> str:
        """Return, in one line, why the address cannot be listened on, and the fix."""
        if error.errno == errno.EADDRNOTAVAIL:
            return (
                f"{self.addresses()} is no address of this machine; choose another with --host, as in --host 127.0.0.1"
            )
        if error.errno == errno.EADDRINUSE:
            other = _OTHER_PORTS[self.has_port(_OTHER_PORTS[0])]
            return f"the port of {self.addresses()} is in use: make serve PORT={other}, or another --port"
        return f"{self.addresses()}: {(error.strerror or str(error)).lower()}; choose another with --port"

    def stop(self) -> None:
        """Refuse new connections from now on, as soon as the workers do too, and have them finish what they took."""
        if self.busy:
            # circus would drop the command, and the signal that it stands for.
            self.call_later(_BUSY_SECONDS, self.stop)
            return
        self.close_port()
        super().stop()

    def reload(self, graceful: bool = True, sequential: bool = False) -> None:
        """Handle SIGHUP: have every worker look at its model file again. One that is starting does so when it listens.

        Args:
            graceful: Circus's argument, without meaning here.
            sequential: Circus's argument, without meaning here.
        """
        for worker in self.workers():
            if _catches(worker.pid, signal.SIGHUP):
                worker.send_signal(signal.SIGHUP)

    def _after_exit(self, watcher: Any, process_pid: int, exit_code: int) -> None:
        folder = watcher.env.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            mark_process_dead(process_pid, folder)  # type: ignore[no-untyped-call]
        # A worker that ended in any other way is replaced at once. So is one whose end leaves nobody to serve while a
        # retry is still due.
        watcher.respawn = exit_code != CANNOT_SERVE
        self._nothing_to_serve = not watcher.respawn and not watcher.processes
        if not watcher.respawn:
            self.call_later(_RETRY_SECONDS, setattr, watcher, "respawn", True)


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal, which would end it otherwise.

    Where that cannot be told, as on systems without /proc, it is taken to have one.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return not Path("/proc/self/status").exists()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (number - 1) & 1)
