"""Show what programs on other machines write into their logs."""

import codecs
import re
from collections.abc import Callable
from pathlib import Path

_ENDS = re.compile(r"[\r\n]")


class Logs:
    """Shows each line that is added to some files, after the name of the file's program.

    Args:
        files: The logs, by the name of what writes them. They need not be there yet.
        show: Prints a line.
    """

    def __init__(self, files: dict[str, Path], show: Callable[[str], None]):
        self._show = show
        self._files = files
        self._read = {name: _size(path) for name, path in files.items()}
        self._rest = dict.fromkeys(files, "")
        # Decoders wait for the rest of a character, whose first bytes alone may be written yet.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder(errors="replace") for name in files}

    def look(self) -> None:
        """Show what is new. A bar, which begins with a return, is shown as it is then."""
        for name, path in self._files.items():
            if _size(path) <= self._read[name]:
                continue
            with path.open("rb") as file:
                file.seek(self._read[name])
                new = file.read()
            self._read[name] += len(new)
            text = self._rest[name] + self._decoders[name].decode(new)
            *lines, last = _ENDS.split(text)
            is_bar = text.endswith(last) and text[: len(text) - len(last)].endswith("\r")
            self._rest[name] = "" if is_bar else last
            for line in [*lines, last] if is_bar else lines:
                if line.strip():
                    self._show(f"{name}: {line.rstrip()}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
