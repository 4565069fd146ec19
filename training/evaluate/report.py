"""A robustness report: which pictures withstood which attack, the figures that follow, and how they are saved."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from training.attacks.auto_attack import AUTO_ATTACK
from training.attacks.base import AttackOn
from training.attacks.rows import row_key
from training.common.files import write_atomically
from training.evaluate.measuring import lowest
from training.evaluate.saved_report import FIX, read_saved

FORMAT = "self-gradient-evaluation/1"
STATES = ("block on", "block off", "exported graph")
"""What is under attack; the columns of the table."""


@dataclass
class Report:
    """Grows attack by attack, and is saved after each, so that an interrupted evaluation goes on where it was.

    setting:   everything that the figures depend on; a saved report of another setting is not gone on with
    about:     what a reader should know besides (command, versions, commit, machine), of the last command
    earlier:   what `about` was for the rows that earlier commands measured: [{"about": ..., "rows": [...]}, ...]
    withstood: per row, a character for each picture: 1 still classified rightly, 0 not, - not attacked because an
               earlier row of the same state had taken it (so a row's ones are what it and those left)
    attacks:   per row, the attack's parameters
    measured:  what else the masking checklist and the plots rest on, by name
    checklist: the masking checklist's findings
    """

    setting: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    withstood: dict[str, str] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    block_effect: dict[str, float] | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    checklist: list[dict[str, Any]] = field(default_factory=list)
    likely_overestimated: bool | None = None

    def add(self, attack: AttackOn[Any], right: Tensor, attacked: Tensor | None = None) -> None:
        """right: (N) bool, of all pictures; attacked: (N) bool, which of them were, None for all"""
        key = row_key(attack)
        marks = ["1" if value else "0" for value in right.tolist()]
        if attacked is not None:
            wrong_at_once = self._wrong_at_once(attack.state, len(marks))
            marks = [
                mark if was or wrong else "-"
                for mark, was, wrong in zip(marks, attacked.tolist(), wrong_at_once, strict=True)
            ]
        self.withstood[key] = "".join(marks)
        self.attacks[key] = json_values(attack.parameters())

    def survivors(self, attack: AttackOn[Any], pictures: int) -> Tensor:
        """Which pictures the attack is to be run on, (N) bool: all, or what withstood the rows that it names."""
        rows = [
            _bits(bits)
            for key, bits in self.withstood.items()
            if key.startswith(attack.state + ": ")
            and any(fnmatchcase(key.removeprefix(attack.state + ": "), pattern) for pattern in attack.survivors_of)
        ]
        return lowest(rows) if rows else torch.ones(pictures, dtype=torch.bool)

    def _wrong_at_once(self, state: str, pictures: int) -> list[bool]:
        bits = self.withstood.get(f"{state}: clean")
        return [False] * pictures if bits is None else [bit == "0" for bit in bits]

    def accuracy(self, key: str) -> float:
        bits = self.withstood[key]
        return bits.count("1") / len(bits)

    def interval(self, key: str) -> tuple[float, float]:
        """95 % confidence interval of accuracy(key), for pictures drawn from a larger set."""
        bits = self.withstood[key]
        return wilson_interval(bits.count("1"), len(bits))

    def states(self) -> list[str]:
        return [state for state in STATES if any(key.startswith(state + ": ") for key in self.withstood)]

    def state_in_use(self) -> str:
        """The state in which the network is used: block on, or, without a block, the only state there is."""
        return "block on" if "block on" in self.states() else "block off"

    def _lowest_per_picture(self, state: str, names: Iterable[str] | None = None) -> Tensor | None:
        keys = [key for key in self.withstood if key.startswith(state + ": ")]
        if names is not None:
            keys = [key for key in keys if key.removeprefix(state + ": ") in {"clean", *names}]
        return lowest(_bits(self.withstood[key]) for key in keys) if keys else None

    def lowest(self, block: bool) -> float | None:
        """Share of pictures that withstood every row of this block state, clean included; None without rows."""
        return self.lowest_of("block on" if block else "block off")

    def lowest_of(self, state: str) -> float | None:
        """As lowest, of any state."""
        right = self._lowest_per_picture(state)
        return None if right is None else right.float().mean().item()

    def auto_attack(self, state: str) -> float | None:
        """Share of pictures that withstood all four attacks of AutoAttack; None where not all of them were run."""
        if not all(f"{state}: {name}" in self.withstood for name in AUTO_ATTACK):
            return None
        right = self._lowest_per_picture(state, AUTO_ATTACK)
        return None if right is None else right.float().mean().item()

    def headline(self) -> float:
        """The one figure: lowest accuracy per picture in the state in which the network is used.

        That is with the block on, or, for a network without a block, the only state there is. Where an exported graph
        was attacked too, what it did not withstand counts as well: it is what is served.
        """
        rows = [self._lowest_per_picture(state) for state in (self.state_in_use(), "exported graph")]
        present = [right for right in rows if right is not None]
        if not present:
            raise ValueError("a report without rows has no headline")
        return lowest(present).float().mean().item()

    def headline_interval(self) -> tuple[float, float]:
        pictures = len(next(iter(self.withstood.values())))
        return wilson_interval(round(self.headline() * pictures), pictures)

    def as_dict(self) -> dict[str, Any]:
        lows = {state: self.lowest_of(state) for state in STATES}
        whole = {state: self.auto_attack(state) for state in STATES}
        return {
            "format": FORMAT,
            "headline": {"lowest accuracy per picture": round(self.headline(), 4)},
            "headline_interval_95": [round(end, 4) for end in self.headline_interval()],
            "robustness_likely_overestimated": self.likely_overestimated,
            "lowest": {state: round(value, 4) for state, value in lows.items() if value is not None},
            "auto_attack": {state: round(value, 4) for state, value in whole.items() if value is not None},
            "accuracy": {key: round(self.accuracy(key), 4) for key in self.withstood},
            "interval_95": {key: [round(end, 4) for end in self.interval(key)] for key in self.withstood},
            "block_effect": self.block_effect,
            "checklist": self.checklist,
            "measured": self.measured,
            "setting": self.setting,
            "about": self.about,
            "earlier": self.earlier,
            "attacks": self.attacks,
            "withstood": self.withstood,
        }

    def save(self, path: Path) -> None:
        """raises WriteError, with the old file left as it was"""
        write_atomically(path, (json.dumps(self.as_dict(), indent=1) + "\n").encode())

    def take_over(self, path: Path, attacks: Sequence[AttackOn[Any]], fix: str = FIX) -> int:
        """Takes what a saved report of the same setting has measured and this one has not.

        Rows of attacks that are not asked for now stay: they count, and measuring them again would cost what they cost.
        A row whose attack had other parameters then is measured again, unless all that it lacked then is sparing
        pictures that earlier rows had taken. What stays keeps its `about`.
        fix: what the caller can do about a file that is not as it must be
        returns how many of `attacks` are done by that
        raises ValueError, one line with the fix, for a file that is no report or one of another setting
        """
        saved = read_saved(path, FORMAT, self.setting, fix)
        if saved is None:
            return 0
        if not _has_rows(saved):
            raise ValueError(f"{path}: a report without its rows; {fix}")
        wanted = {row_key(attack): json_values(attack.parameters()) for attack in attacks}
        keep = [
            key
            for key in saved["withstood"]
            if key not in self.withstood and (key not in wanted or _covers(saved["attacks"][key], wanted[key]))
        ]
        self.withstood |= {key: saved["withstood"][key] for key in keep}
        self.attacks |= {key: saved["attacks"][key] for key in keep}
        self.earlier += _measured_earlier(saved, keep, self.about)
        self.measured = _both_measured(self.measured, saved.get("measured", {}))
        return len(set(wanted) & set(keep))

    def sort_rows(self, keys: Iterable[str]) -> None:
        """Puts the rows into this order, others behind them."""
        order = [key for key in dict.fromkeys(keys) if key in self.withstood]
        order += [key for key in self.withstood if key not in set(order)]
        self.withstood = {key: self.withstood[key] for key in order}
        self.attacks = {key: self.attacks[key] for key in order}

    def table(self) -> str:
        """The figures as Markdown, one row an attack, the states side by side.

        A dagger marks a row that was run only on what earlier ones had left: its figure is what was left after it.
        """
        names = list(dict.fromkeys(key.split(": ", 1)[1] for key in self.withstood))
        states = self.states()
        lines = [_row(["accuracy, %", *states]), _row(["---"] + ["---:"] * len(states))]
        for name in names:
            keys = [f"{state}: {name}" for state in states]
            marked = any("-" in self.withstood.get(key, "") for key in keys)
            cells = [_percent(self.accuracy(key)) if key in self.withstood else "-" for key in keys]
            lines.append(_row([name + " †" * marked, *cells]))
        whole = [self.auto_attack(state) for state in states]
        if any(value is not None for value in whole):
            lines.append(_row(["AutoAttack (the four together)", *map(_percent_or_dash, whole)]))
        lows = [self.lowest_of(state) for state in states]
        lines.append(_row(["**lowest, per picture**", *(f"**{_percent(low)}**" for low in lows if low is not None)]))
        return "\n".join(lines)


def _has_rows(saved: dict[str, Any]) -> bool:
    rows, attacks = saved.get("withstood"), saved.get("attacks")
    return isinstance(rows, dict) and isinstance(attacks, dict) and rows.keys() == attacks.keys()


def _covers(done: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether an attack is the wanted one, on all of its pictures."""
    spared = set(done.get("survivors_of", ())) <= set(wanted.get("survivors_of", ()))
    return spared and {**done, "survivors_of": ()} == {**wanted, "survivors_of": ()}


def _measured_earlier(saved: dict[str, Any], rows: Sequence[str], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Report.earlier of a command that says `about` and keeps these rows of a saved report."""
    entries = list(saved.get("earlier", []))
    named = {row for entry in entries for row in entry["rows"]}
    entries.append({"about": saved.get("about", {}), "rows": [row for row in saved["withstood"] if row not in named]})
    kept = [{"about": entry["about"], "rows": [row for row in entry["rows"] if row in rows]} for entry in entries]
    return [entry for entry in kept if entry["rows"] and entry["about"] != about]


def _both_measured(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What either has, ours where both have it; of figures by name (a row's, a gradient's) each for itself."""
    both = theirs | ours
    for name in ours.keys() & theirs.keys():
        if isinstance(ours[name], dict) and isinstance(theirs[name], dict):
            both[name] = theirs[name] | ours[name]
    return both


def json_values(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: lists for tuples."""
    loaded: dict[str, Any] = json.loads(json.dumps(values))
    return loaded


def _bits(text: str) -> Tensor:
    return torch.tensor([character == "1" for character in text])


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}"


def _percent_or_dash(accuracy: float | None) -> str:
    return "-" if accuracy is None else _percent(accuracy)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def wilson_interval(right: int, pictures: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    right, pictures: counts, 0 <= right <= pictures, pictures >= 1
    returns:         lower and upper end, in [0, 1]
    Source: Wilson (1927), as recommended by Brown, Cai and DasGupta (2001) for its coverage near 0 and 1.
    """
    interval = binomtest(right, pictures).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
