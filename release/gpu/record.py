"""Write gpu.json, the state of a run. It is replaced atomically after every step, so a kill leaves it readable."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command_line import write_result

NAME = "gpu.json"
FORMAT = "self-gradient-gpu/1"
SAYS = "says"
"""Name of the figure that gives a stage's result as one sentence, for the summary."""


@dataclass(frozen=True)
class Record:
    """The file gpu.json. One process at a time writes it: a stage while it runs, the command between stages.

    Attributes:
        path: The file's path.
    """

    path: Path

    def start(self, about: dict[str, Any], stages: Iterable[str]) -> None:
        """Replace the file by one in which every stage is waiting.

        Args:
            about: Description of the run.
            stages: The stages' names, in order.
        """
        waiting = {name: {"status": "waiting", "reason": "", "figures": {}} for name in stages}
        self._write({"format": FORMAT, **about, "stages": waiting})

    def read(self) -> dict[str, Any]:
        """Return the file's content."""
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def stage(self, name: str) -> dict[str, Any]:
        """Return the record of a stage. It is empty for a stage that is not part of the run."""
        found: dict[str, Any] = self.read()["stages"].get(name, {"status": "left out", "reason": "", "figures": {}})
        return found

    def update(self, name: str, **fields: Any) -> None:
        """Set fields of a stage, such as its status."""
        content = self.read()
        content["stages"][name] |= fields
        self._write(content)

    def add_figures(self, name: str, figures: dict[str, Any]) -> None:
        """Add figures to a stage's figures."""
        content = self.read()
        content["stages"][name]["figures"] |= figures
        self._write(content)

    def finish(self, **fields: Any) -> None:
        """Set fields of the run, such as its summary."""
        self._write(self.read() | fields)

    def _write(self, content: dict[str, Any]) -> None:
        write_result(self.path, content)
