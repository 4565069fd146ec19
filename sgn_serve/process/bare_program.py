"""Start a program of this package with no more of the environment than Python needs: no token and no credential."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PACKAGES = str(Path(__file__).parents[2])
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that keep NumPy's libraries from starting threads, which no fork would take along."""


def start_bare(
    module: str, arguments: Sequence[str], variables: Mapping[str, str], **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a module in a session of its own, so that Ctrl-C of a terminal does not reach it.

    It writes no compiled modules. One that compiles has another heap than one that finds them, so its next start would
    differ from its first. Import in the calling process what it imports of this package: that one writes them.

    Args:
        module: The module, as for `python -m`.
        arguments: Its arguments.
        variables: Further environment variables.
        options: Further arguments of subprocess.Popen.

    Raises:
        OSError: It cannot be started.
    """
    environment = {name: os.environ[name] for name in _LIBRARY_PATHS if name in os.environ}
    environment |= dict.fromkeys(_THREADS, "1") | dict(variables)
    environment["PYTHONPATH"] = os.pathsep.join([_PACKAGES, *(path or os.getcwd() for path in sys.path)])
    command = [sys.executable, "-P", "-B", "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)
