"""Save what a row or a check of a report has measured so far, so that a killed process does not cost hours."""

import base64
import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.common.files import write_atomically


class RowProgress:
    """A file that is saved after each batch of one attack, with the states of the random generators.

    These states give a row that was interrupted the same figures as one that was not.

    Attributes:
        path: The file.
        row: Everything that the row depends on; what the file says of any other row is ignored.
        restored: How many pictures restore() found done.
        done: How many pictures are done and saved.
    """

    def __init__(self, path: Path, row: dict[str, Any]):
        """Start the clock of the row; nothing is read or written yet."""
        self.path = path
        self.row = json.loads(json.dumps(row))  # the file gives it back so: lists for tuples
        self.restored = self.done = 0
        self._earlier = 0.0
        self._started = time.process_time()

    def restore(self) -> list[bool]:
        """Return which of the pictures done so far withstood, in order, and restore torch's generators.

        Where nothing is saved of this row, the list is empty and the generators are left alone.
        """
        try:
            saved = json.loads(self.path.read_bytes())
            if saved["row"] != self.row:
                return []
            withstood = [mark == "1" for mark in saved["withstood"]]
            generators = [_tensor(text) for text in saved["generators"]]
            self._earlier = float(saved["core_seconds"])
        except (OSError, ValueError, KeyError, TypeError):  # a cache: damaged, it is measured again
            return []
        torch.set_rng_state(generators[0])
        if generators[1:]:
            torch.cuda.set_rng_state_all(generators[1:])
        self.restored = self.done = len(withstood)
        return withstood

    def save(self, withstood: list[bool]) -> None:
        """Save what is done so far, with the generators' states.

        Raises:
            WriteError: The file cannot be written; the old one is left as it was.
        """
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        content = {
            "row": self.row,
            "withstood": "".join("1" if value else "0" for value in withstood),
            "core_seconds": self.core_seconds(),
            "generators": [_text(state) for state in (torch.get_rng_state(), *on_gpus)],
        }
        write_atomically(self.path, json.dumps(content).encode())
        self.done = len(withstood)

    def core_seconds(self) -> float:
        """Return the processor time of the row, over all processes that measured parts of it."""
        return self._earlier + time.process_time() - self._started

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass
class CheckProgress:
    """A file that is saved after each part of a check beside the attacks.

    Attributes:
        path: The file.
        check: Everything that the check depends on; what the file says of any other check is ignored.
        done: How many parts are done and saved.
    """

    path: Path
    check: dict[str, Any]
    done: int = 0

    def restore(self) -> list[Tensor]:
        """Return the parts that are done, (N) float32 each. The list is empty where nothing is saved of this check."""
        try:
            saved = json.loads(self.path.read_bytes())
            parts = [torch.tensor(part, dtype=torch.float32) for part in saved["parts"]]
            if saved["check"] != json.loads(json.dumps(self.check)):
                return []
        except (OSError, ValueError, KeyError, TypeError):  # a cache: damaged, it is measured again
            return []
        self.done = len(parts)
        return parts

    def save(self, parts: list[Tensor]) -> None:
        """Save the parts that are done, to the last bit.

        Raises:
            WriteError: The file cannot be written; the old one is left as it was.
        """
        content = {"check": self.check, "parts": [part.tolist() for part in parts]}
        write_atomically(self.path, json.dumps(content).encode())
        self.done = len(parts)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _text(state: Tensor) -> str:
    return base64.b64encode(bytes(state.tolist())).decode()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
