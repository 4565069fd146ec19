"""Tell which versions and which commit a result comes from."""

import platform
import subprocess
from pathlib import Path

import torch


def current_versions() -> dict[str, str]:
    """Versions of Python, PyTorch and NumPy, and the kind of machine, for a checkpoint or a result."""
    import numpy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def git_commit() -> str:
    """Return the checkout's commit, with "+changes" where tracked files differ from it, or "" outside a checkout."""
    root = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", ":/"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+changes" if changes else "")
