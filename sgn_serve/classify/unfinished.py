"""Keep an unfinished run in a folder of parts beside its output: a killed run loses the parts in work."""

import fcntl
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.formats import Format, naming, write_whole

FORMAT = 2
_MANIFEST, _INPUTS, _WHOLE = "manifest.json", "inputs", "whole.unfinished"
_ENDING = ".parts"
_OWN_NAME = re.compile(r"inputs|whole\.unfinished|(manifest\.json|\d+\.\d+\.\d+\.part)(\.unfinished)?")
"""Names of the files that a run makes. Nothing else in the folder is ever removed."""


def is_unfinished_run(folder: str) -> bool:
    """Return whether a folder holds the files of a run, this one or another, and nothing else."""
    if not folder.endswith(_ENDING):
        return False
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return _INPUTS in names and all(_OWN_NAME.fullmatch(name) for name in names)


@dataclass(frozen=True)
class Manifest:
    """Describe a run.

    Attributes:
        identity: Everything that its rows depend on, by a name for people.
        tables: See inputs.Found.
        count: Number of inputs.
        chunk: Inputs of one part.
        engine: The fields of the EngineChoice that the run began with, and goes on with.
        format: Version of this record.
    """

    identity: dict[str, Any]
    tables: list[list[str]]
    count: int
    chunk: int
    engine: dict[str, Any] | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Done:
    """Count the rows that are written.

    Attributes:
        parts: Number of parts, without a gap from the first on.
        answered: Rows with an answer.
        refused: Rows with an error.
    """

    parts: int
    answered: int
    refused: int


class PartsFolder:
    """The folder of an unfinished run. One process at a time works in it.

    A run goes through these states, and can be killed in each and between any two:

    1. There is no manifest: the inputs are being listed. A run that finds the folder so starts anew.
    2. There is a manifest, and so the whole list. Each part appears at once, by a renaming.
    3. The output appears at once, by a renaming. From then on the folder is of no use, and whoever finds it removes it.

    Args:
        output: The output of the run.
        format: Its format.
    """

    def __init__(self, output: Path, format: Format):
        self.output = output
        self.path = output.with_name(output.name + _ENDING)
        self._format = format
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Make the folder if there is none, and keep others out.

        Raises:
            ClassifyError: Another process works in it, or it holds something that no run has made.
            OSError: It cannot be made, or its file system has no locks.
        """
        self.path.mkdir(exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stranger = self.stranger()
            if stranger is not None:
                raise ClassifyError(
                    f"{self.path}: {stranger!r} in it is no file of an unfinished run; move the folder away, or give "
                    "another --out"
                )
        except BaseException as error:
            os.close(self._lock)
            self._lock = None
            if not isinstance(error, BlockingIOError):
                raise
            raise ClassifyError(f"{self.path}: another run works in it; wait for its end, or end it") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder. One without a manifest is removed: nothing in it is worth keeping."""
        if self._lock is not None:
            if self.path.is_dir() and not (self.path / _MANIFEST).exists():
                self._remove()
            os.close(self._lock)

    def stranger(self) -> str | None:
        """Return a name in the folder that no run gives to its files, None where there is none."""
        return next((path.name for path in sorted(self.path.iterdir()) if not _OWN_NAME.fullmatch(path.name)), None)

    @property
    def inputs(self) -> Path:
        """The file with the list of inputs."""
        return self.path / _INPUTS

    def exists(self) -> bool:
        """Return whether there is an unfinished run."""
        return (self.path / _MANIFEST).exists()

    def is_finished(self) -> bool:
        """Return whether the output is there."""
        return os.path.lexists(self.output)

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, None where there is none yet.

        Raises:
            ClassifyError: It is of another version, or damaged.
        """
        try:
            content = json.loads((self.path / _MANIFEST).read_bytes())
            if content["format"] == FORMAT:
                return Manifest(**content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            pass
        raise ClassifyError(f"{self.path}: this is no run of this version; remove the folder to start again")

    def list_inputs(self, write: Callable[[BinaryIO], None]) -> None:
        """Write the list of inputs. Files of a run without a manifest are removed first.

        Args:
            write: Writes the list.
        """
        self._remove_files()
        with naming(self.inputs), self.inputs.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest. From now on the run can be resumed."""
        write_whole(self.path / _MANIFEST, json.dumps(asdict(manifest), indent=1).encode())

    def done(self) -> Done:
        """Return what is written."""
        counts = [(answered, refused) for _, answered, refused in self._whole_parts()]
        return Done(len(counts), sum(answered for answered, _ in counts), sum(refused for _, refused in counts))

    def resume(self) -> Done:
        """Return what is written, and remove the parts behind a gap: they are made again.

        A power cut can keep a later part and lose an earlier one.
        """
        kept = {path for path, _, _ in self._whole_parts()}
        for path in self._parts():
            if path not in kept:
                path.unlink()
        return self.done()

    def _parts(self) -> list[Path]:
        """Return all parts by their numbers. From ten million on these have more digits, so names sort otherwise."""
        return sorted(self.path.glob("*.*.*.part"), key=lambda path: int(path.name.partition(".")[0]))

    def _whole_parts(self) -> list[tuple[Path, int, int]]:
        """Return each part without a gap from the first on, with its rows that have an answer and an error."""
        found: list[tuple[Path, int, int]] = []
        for path in self._parts():
            number, answered, refused, _ = path.name.split(".")
            if int(number) == len(found):
                found.append((path, int(answered), int(refused)))
        return found

    def write_part(self, number: int, content: bytes, answered: int, refused: int) -> None:
        """Write a part. Its name tells its counts."""
        write_whole(self.path / f"{number:07d}.{answered}.{refused}.part", content)

    def finish(self) -> None:
        """Put the parts together to the output, and remove the folder.

        Raises:
            ClassifyError: Somebody else has made a file of that name meanwhile.
        """
        whole = self.path / _WHOLE
        with naming(whole), whole.open("wb") as file:
            self._format.join([path for path, _, _ in self._whole_parts()], file)
            file.flush()
            os.fsync(file.fileno())
        if self.is_finished():
            raise ClassifyError(f"{self.output}: it was made meanwhile; move it away and give --resume")
        whole.replace(self.output)
        self._sync_parent()
        self.clear()

    def clear(self) -> None:
        """Remove the folder of a run whose output is there."""
        (self.path / _MANIFEST).unlink(missing_ok=True)
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self._remove_files()
            self.path.rmdir()

    def _remove_files(self) -> None:
        for path in self.path.iterdir():
            if _OWN_NAME.fullmatch(path.name):
                path.unlink()

    def _sync_parent(self) -> None:
        folder = os.open(self.output.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
