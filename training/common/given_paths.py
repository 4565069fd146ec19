"""Refuse files of the command line that are not there. Nothing here imports PyTorch.

A command checks its paths with this before it imports what takes seconds. What reads a file later checks it again, for
programs that call it themselves.
"""

from pathlib import Path

from training.common.errors import TrainingError

CHECKPOINT_OR_WEIGHTS = "a model.safetensors written by `python -m training`, or weights of another program,"
"""The files that most options for a network take, in words."""


class PathError(TrainingError):
    """A file or a folder of the command line is not there, or is in the way. The message names the fix."""


def require_file(path: Path, flag: str, wanted: str = CHECKPOINT_OR_WEIGHTS) -> None:
    """Check that a file is there.

    Args:
        path: The file.
        flag: The option that named it.
        wanted: The files that the option takes, in words.

    Raises:
        PathError: It is not, or it is a folder.
    """
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise PathError(f"{path}: {found}; pass {wanted} to {flag}")
