"""Write a file in one step, or leave what was there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.errors import ExportError


class OutputError(ExportError):
    """A place where the graph cannot be written; the message names it and the fix."""


class SystemRefusal(OutputError):
    """The system refuses to write, such as on a full disk; the message names the file and the reason."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Tell an error of the system, such as a full disk, as one of writing. Enclose what makes and writes the content.

    Args:
        target: The file that the message names where the system names none.

    Raises:
        SystemRefusal: The system refuses.
    """
    try:
        yield
    except OSError as error:
        raise SystemRefusal(f"{error.filename or target}: {error.strerror or error}") from error


UNFINISHED: dict[Path, Path] = {}
"""Files that are being written, each with the target that it will replace. A signal handler removes them."""


@contextmanager
def replacing(target: Path, checkpoint: Path) -> Iterator[Path]:
    """Yield a temporary file beside `target` that replaces it on success and is removed on any failure.

    Raises:
        OutputError: The target is the checkpoint, is a folder, or cannot be written.
    """
    try:
        if target.exists() and target.samefile(checkpoint):
            raise OutputError(f"{target}: is the checkpoint itself, which the graph would replace; pass another PATH")
        if target.is_dir():
            raise OutputError(f"{target}: is a folder; pass the file to write, such as {target / 'model.onnx'}")
        if not target.parent.is_dir():
            raise OutputError(f"{target}: its folder does not exist; create it first")
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    except OSError as error:
        raise _cannot_be_written(target, error) from None
    UNFINISHED[partial] = target  # before the file is there: a signal may come in between
    try:
        try:
            partial.touch()  # fails before the work, not after it
        except OSError as error:
            raise _cannot_be_written(target, error) from None
        yield partial
        with writing(target):
            os.replace(partial, target)
    finally:
        with suppress(OSError):  # such as a read-only file system, which has been told
            partial.unlink(missing_ok=True)
        UNFINISHED.pop(partial, None)


def _cannot_be_written(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target}: cannot be written ({error.strerror}); pass another PATH")
