"""gpu.json: the state of a run, replaced as a whole after every step, so that a kill leaves it readable."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.common.files import write_atomically

NAME = "gpu.json"
FORMAT = "self-gradient-gpu/1"
SAYS = "says"
"""Figure of a stage: its result as one sentence, for the summary."""


@dataclass(frozen=True)
class Record:
    """The file. One process at a time writes it: a stage while it runs, the command itself between stages."""

    path: Path

    def start(self, about: dict[str, Any], stages: Iterable[str]) -> None:
        """Replace the file by one in which every stage is waiting.

        about: what a reader should know of the run
        """
        waiting = {name: {"status": "waiting", "reason": "", "figures": {}} for name in stages}
        self._write({"format": FORMAT, **about, "stages": waiting})

    def read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    def stage(self, name: str) -> dict[str, Any]:
        """Return what is recorded of a stage; an empty record for one that is not part of the run."""
        found: dict[str, Any] = self.read()["stages"].get(name, {"status": "left out", "reason": "", "figures": {}})
        return found

    def update(self, name: str, **fields: Any) -> None:
        """Set fields of a stage, such as its status."""
        content = self.read()
        content["stages"][name] |= fields
        self._write(content)

    def add_figures(self, name: str, figures: dict[str, Any]) -> None:
        """Add figures to those of a stage."""
        content = self.read()
        content["stages"][name]["figures"] |= figures
        self._write(content)

    def finish(self, **fields: Any) -> None:
        """Set fields of the run itself."""
        self._write(self.read() | fields)

    def _write(self, content: dict[str, Any]) -> None:
        write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())
