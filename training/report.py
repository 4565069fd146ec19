"""A robustness report: which pictures withstood which attack, the figures that follow, and how they are shown."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.atomic_file import write_atomically
from training.robustness import Attack, lowest

FORMAT = "self-gradient-evaluation/1"


def row_key(attack: Attack) -> str:
    """An attack's name in the report: block state and attack."""
    return f"block {'on' if attack.block else 'off'}: {attack.name}"


@dataclass
class Report:
    """Grows attack by attack, and is saved after each, so that an interrupted evaluation goes on where it was.

    setting:   everything that the figures depend on; a saved report of another setting is not gone on with
    about:     what a reader should know besides (command, versions, commit, machine)
    withstood: per row, a string with a 1 for each picture still classified rightly and a 0 for the others
    attacks:   per row, the attack's parameters
    """

    setting: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    withstood: dict[str, str] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    block_effect: dict[str, float] | None = None

    def add(self, attack: Attack, right: Tensor) -> None:
        """right: (N) bool"""
        key = row_key(attack)
        self.withstood[key] = "".join("1" if value else "0" for value in right.tolist())
        self.attacks[key] = asdict(attack)

    def accuracy(self, key: str) -> float:
        bits = self.withstood[key]
        return bits.count("1") / len(bits)

    def lowest(self, block: bool) -> float | None:
        """Share of pictures that withstood every row of this block state, clean included; None without rows."""
        prefix = f"block {'on' if block else 'off'}: "
        rows = [_bits(bits) for key, bits in self.withstood.items() if key.startswith(prefix)]
        return lowest(rows).float().mean().item() if rows else None

    def headline(self) -> float:
        """The one figure: lowest accuracy per picture in the state in which the network is used.

        That is with the block on, or, for a network without a block, the only state there is.
        """
        value = self.lowest(block=True)
        if value is None:
            value = self.lowest(block=False)
        if value is None:
            raise ValueError("a report without rows has no headline")
        return value

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "headline": {"lowest accuracy per picture": round(self.headline(), 4)},
            "lowest": {
                state: round(value, 4)
                for state, value in (("block on", self.lowest(True)), ("block off", self.lowest(False)))
                if value is not None
            },
            "accuracy": {key: round(self.accuracy(key), 4) for key in self.withstood},
            "block_effect": self.block_effect,
            "setting": self.setting,
            "about": self.about,
            "attacks": self.attacks,
            "withstood": self.withstood,
        }

    def save(self, path: Path) -> None:
        """raises WriteError, with the old file left as it was"""
        write_atomically(path, (json.dumps(self.as_dict(), indent=1) + "\n").encode())

    def take_over(self, path: Path) -> int:
        """Takes the rows of a saved report of the same setting; returns how many, 0 where there is none."""
        if not path.is_file():
            return 0
        try:
            saved = json.loads(path.read_text())
        except ValueError:
            return 0
        if saved.get("format") != FORMAT or saved.get("setting") != self.setting:
            return 0
        self.withstood, self.attacks = dict(saved["withstood"]), dict(saved["attacks"])
        return len(self.withstood)

    def table(self) -> str:
        """The figures as Markdown, one row an attack, block on and off side by side."""
        names = list(dict.fromkeys(key.split(": ", 1)[1] for key in self.withstood))
        states = [state for state in ("on", "off") if any(key.startswith(f"block {state}: ") for key in self.withstood)]
        titles = ["accuracy, %", *(f"block {state}" for state in states)]
        lines = [_row(titles), _row(["---"] + ["---:"] * len(states))]
        for name in names:
            keys = [f"block {state}: {name}" for state in states]
            lines.append(
                _row([name, *(_percent(self.accuracy(key)) if key in self.withstood else "-" for key in keys)])
            )
        lows = [self.lowest(state == "on") for state in states]
        lines.append(_row(["**lowest, per picture**", *(f"**{_percent(low)}**" for low in lows if low is not None)]))
        return "\n".join(lines)


def standard_error(accuracy: float, count: int) -> float:
    """Of an accuracy measured on `count` independent pictures."""
    return (accuracy * (1 - accuracy) / count) ** 0.5


def _bits(text: str) -> Tensor:
    return torch.tensor([character == "1" for character in text])


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
