"""Tell which versions and which commit a result comes from."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


def current_versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch and NumPy, and the kind of machine, for a checkpoint or a result."""
    # Imported here, because a benchmark of the service has no need of them.
    import numpy
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def git_commit(folder: Path = Path(__file__).parent, ignore: Sequence[str] = ()) -> str:
    """Return the checkout's commit, with "+changes" where tracked files anywhere in it differ from that commit.

    Args:
        folder: Any folder of the checkout. The default is this program's.
        ignore: Paths from the checkout's root whose changes do not count, such as "results" for a program that writes
            its result there.

    Returns:
        Twelve digits of the hash, "+changes" after them where files differ, or "" outside a checkout.
    """
    paths = [":/", *(f":(top,exclude){path}" for path in ignore)]
    try:
        # An installed package may lie in a checkout of something else, which does not track it.
        subprocess.run(["git", "ls-files", "--error-unmatch", "."], cwd=folder, capture_output=True, check=True)
        commit, changes = (
            subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", *paths],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+changes" if changes else "")


def today() -> str:
    """Return the day in UTC, such as 2026-11-26."""
    return datetime.now(UTC).date().isoformat()
