"""Run another program's module as `python -m` does, in a process that ends with the one that started it.

A worker of a cluster may be killed at any time. Its training must not go on beside the one that takes its place.
"""

import os
import runpy
import signal
import sys

from sgn_serve.common.parent_process import end_with_starting_thread
from training.parallel.parent import end_with_parent


def main() -> None:
    """Run the module that the arguments name after the number of the parent's process, with the rest of them."""
    parent, module, *arguments = sys.argv[1:]
    # The worker starts it from its main thread, so the signal comes when the worker ends, and not before.
    if not end_with_starting_thread():
        end_with_parent()
    if os.getppid() != int(parent):  # it has ended before it was watched
        sys.exit(128 + signal.SIGKILL)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
