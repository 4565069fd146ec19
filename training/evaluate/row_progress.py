"""Save what rows or a check of a report have measured so far, so that a killed process does not cost hours."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import AttackOn
from training.common.files import write_atomically
from training.evaluate.measuring import BatchResult


class BatchProgress:
    """A file with the batches of rows that are not in the report yet. It is saved after each batch.

    A batch is known by its attack and its pictures. So it does not matter which process measured it, or in what order.

    Args:
        path: The file. Nothing is read or written yet.
        setting: The setting of the report; what the file says of any other one is ignored.
    """

    def __init__(self, path: Path, setting: dict[str, Any]):
        self.path = path
        self._setting = json.loads(json.dumps(setting))  # as the file gives it back: lists for tuples
        self._rows: dict[str, dict[tuple[int, ...], BatchResult]] = {}

    def restore(self) -> None:
        """Read what an earlier process has saved. A file that is damaged or of another setting counts as none."""
        try:
            saved = json.loads(self.path.read_bytes())
            if saved["setting"] != self._setting:
                return
            rows = {
                _key(row["attack"]): {
                    tuple(map(int, batch["pictures"])): BatchResult(
                        _marks(batch), float(batch["core_seconds"]), int(batch["not_finite"])
                    )
                    for batch in row["batches"]
                }
                for row in saved["rows"]
            }
        except (OSError, ValueError, KeyError, TypeError):  # a cache: damaged, it is measured again
            return
        self._rows = rows

    def find(self, attack: AttackOn[Any], pictures: tuple[int, ...]) -> BatchResult | None:
        """Return the saved result of a batch, None where there is none."""
        return self._rows.get(_key(_description(attack)), {}).get(pictures)

    def add(self, attack: AttackOn[Any], pictures: tuple[int, ...], result: BatchResult) -> None:
        """Save the result of a batch.

        Raises:
            WriteError: The file cannot be written; the old one is left as it was.
        """
        self._rows.setdefault(_key(_description(attack)), {})[pictures] = result
        self._save()

    def forget(self, attack: AttackOn[Any]) -> None:
        """Drop the batches of a row that is in the report.

        Raises:
            WriteError: The file cannot be written; the old one is left as it was.
        """
        if self._rows.pop(_key(_description(attack)), None) is None:
            return
        if self._rows:
            self._save()
        else:
            self.remove()

    def _save(self) -> None:
        rows = [
            {
                "attack": json.loads(key),
                "batches": [{"pictures": pictures, **asdict(result)} for pictures, result in batches.items()],
            }
            for key, batches in self._rows.items()
        ]
        write_atomically(self.path, json.dumps({"setting": self._setting, "rows": rows}).encode())

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


def _description(attack: AttackOn[Any]) -> dict[str, Any]:
    return {"id": attack.id.as_dict(), "parameters": attack.parameters()}


def _key(description: Any) -> str:
    return json.dumps(description, sort_keys=True)


def _marks(batch: dict[str, Any]) -> str:
    """Return the marks of a saved batch.

    Raises:
        ValueError: They are not one for each picture.
    """
    marks = str(batch["withstood"])
    if len(marks) != len(batch["pictures"]) or set(marks) - set("01"):
        raise ValueError(marks)
    return marks
