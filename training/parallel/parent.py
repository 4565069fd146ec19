"""End a worker whose torchrun has gone."""

import os
import signal
import threading
import time

INTERVAL_SECONDS = 1.0
"""Time between two looks at the parent."""
GRACE_SECONDS = 30.0
"""Time that a worker gets for a message before it is ended in the middle of whatever it waits for."""


def end_with_parent() -> None:
    """Watch this process's parent from a thread, and end the process once the parent has died.

    torchrun ends its workers when it ends, but not when it is killed. They would go on, write into the run's folder,
    and keep it from being resumed. SIGTERM comes first. A worker that waits for another one inside a library does not
    notice it, so it is ended without a word later. Linux could send the signal by itself (PR_SET_PDEATHSIG), but does
    so when the thread that started the worker ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(INTERVAL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
