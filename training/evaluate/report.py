"""Keep a robustness report: which pictures withstood which attack, the figures that follow, and how they are saved."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgn_serve.common.confidence import interval_95
from sgn_serve.common.markdown import table
from training.attacks.base import AttackOn
from training.attacks.rows import AUTO_ATTACK_ROWS, CLEAN, STATES, RowId, State, any_matches
from training.common.files import write_atomically
from training.evaluate.measuring import lowest
from training.evaluate.saved_report import FIX, SavedReportError, read_saved

FORMAT = "self-gradient-evaluation/2"
BLOCK_EFFECT = "block_effect"
"""Name of the effect of the block, which has a place of its own in the report."""
GRADIENT_CORRELATION = "gradient_correlation"
ZERO_GRADIENTS = "zero_gradients"
BATCH_DEPENDENCE = "batch_dependence"
RANDOMNESS = "randomness"
CURVE = "accuracy_over_eps"
SLOW_DOWN = "slow_down"
CONVERGENCE = "convergence"
MEASURED = (GRADIENT_CORRELATION, ZERO_GRADIENTS, BATCH_DEPENDENCE, RANDOMNESS, CURVE, SLOW_DOWN, CONVERGENCE)
"""Measurements beside the rows, in their order. Others follow."""


@dataclass(frozen=True)
class Row:
    """The result of one attack.

    Attributes:
        withstood: A character for each picture: 1 still classified rightly, 0 not, - not attacked because an earlier
            row of the same state had taken it. A row's ones are what it and those earlier rows left.
        attack: The attack's parameters, AttackOn.parameters().
        core_seconds: Processor time of the attack, None where it was not taken.
        not_finite: Number of attacked pictures with a logit that is NaN or infinite. They count as wrong. None where
            nobody counted them, which is so in committed reports alone.
    """

    withstood: str
    attack: Mapping[str, Any]
    core_seconds: float | None = None
    not_finite: int | None = 0

    @property
    def accuracy(self) -> float:
        """Share of all pictures that the attack left."""
        return self.withstood.count("1") / len(self.withstood)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy, for pictures drawn from a larger set."""
        return interval_95(self.withstood.count("1"), len(self.withstood))

    @property
    def right(self) -> Tensor:
        """Return which pictures the attack left, (N) bool."""
        return torch.tensor([character == "1" for character in self.withstood])


@dataclass(frozen=True)
class Earlier:
    """A command that measured rows before the one that the report is of.

    Attributes:
        about: The value of Report.about for that command.
        rows: The rows that it measured.
    """

    about: Mapping[str, Any]
    rows: tuple[RowId, ...]


@dataclass
class Report:
    """A report that grows attack by attack. It is saved after each, so that an interrupted evaluation can be continued.

    Attributes:
        setting: Everything that the figures depend on; a saved report of another setting is not continued.
        about: Other things that a reader should know (command, versions, commit, machine), of the last command.
        earlier: The commands that measured the other rows.
        rows: The result of each attack.
        block_effect: The effect of the block, None where it was not measured or there is no block.
        measured: Other measurements that the masking checklist and the plots rest on, by name.
        checklist: The masking checklist's findings.
        likely_overestimated: Whether a finding says that the figures are likely too high.
    """

    setting: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    earlier: list[Earlier] = field(default_factory=list)
    rows: dict[RowId, Row] = field(default_factory=dict)
    block_effect: dict[str, float] | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    checklist: list[dict[str, Any]] = field(default_factory=list)
    likely_overestimated: bool | None = None

    def add(
        self,
        attack: AttackOn[Any],
        right: Tensor,
        attacked: Tensor | None = None,
        core_seconds: float | None = None,
        not_finite: int = 0,
    ) -> None:
        """Add a row.

        Args:
            attack: The attack that was run.
            right: Which of all pictures are classified rightly, (N) bool.
            attacked: Which pictures were attacked, (N) bool; None for all.
            core_seconds: Processor time of the attack.
            not_finite: Number of attacked pictures with a logit that is NaN or infinite.
        """
        marks = ["1" if value else "0" for value in right.tolist()]
        if attacked is not None:
            wrong_at_once = self._wrong_at_once(attack.id.state, len(marks))
            marks = [
                mark if was or wrong else "-"
                for mark, was, wrong in zip(marks, attacked.tolist(), wrong_at_once, strict=True)
            ]
        self.rows[attack.id] = Row("".join(marks), json_values(attack.parameters()), core_seconds, not_finite)

    def survivors(self, attack: AttackOn[Any], pictures: int) -> Tensor:
        """Return which pictures the attack is to be run on, (N) bool: all, or what withstood the rows it names."""
        rows = [row for one, row in self.in_state(attack.id.state).items() if any_matches(attack.survivors_of, one)]
        return lowest(row.right for row in rows) if rows else torch.ones(pictures, dtype=torch.bool)

    def _wrong_at_once(self, state: State, pictures: int) -> list[bool]:
        clean = self.rows.get(RowId(state, "clean"))
        return [False] * pictures if clean is None else [mark == "0" for mark in clean.withstood]

    def in_state(self, state: State) -> dict[RowId, Row]:
        """Return the rows of a state."""
        return {one: row for one, row in self.rows.items() if one.state == state}

    def states(self) -> list[State]:
        """Return the states that have rows."""
        present = {one.state for one in self.rows}
        return [state for state in STATES if state in present]

    def state_in_use(self) -> State:
        """Return the state in which the network is used: block on, or, without that, the only state there is."""
        states = self.states()
        if states == ["auto"]:
            return "auto"
        return "block on" if "block on" in states else "block off"

    def pictures(self) -> int:
        """Return the number of pictures."""
        return len(next(iter(self.rows.values())).withstood)

    def lowest_of(self, state: State) -> float | None:
        """Return the share of pictures that withstood every row of a state, clean included; None without rows."""
        right = self._lowest_per_picture(state, lambda row: True)
        return None if right is None else right.float().mean().item()

    def auto_difference(self) -> float | None:
        """Return by how much auto is under the lower of block on and off, lowest accuracies per picture.

        It is above zero where auto is the weaker one. None where one of the three was not attacked.
        """
        lows = [self.lowest_of(state) for state in ("auto", "block on", "block off")]
        auto, on, off = lows
        return None if auto is None or on is None or off is None else min(on, off) - auto

    def auto_attack(self, state: State) -> float | None:
        """Return the share of pictures that withstood AutoAttack's four; None where not all of them were run."""
        present = self.in_state(state)
        if not all(any(one.matches(row) for row in present) for one in AUTO_ATTACK_ROWS):
            return None
        counted = (CLEAN, *AUTO_ATTACK_ROWS)
        right = self._lowest_per_picture(state, lambda row: any_matches(counted, row))
        return None if right is None else right.float().mean().item()

    def _lowest_per_picture(self, state: State, counts: Callable[[RowId], bool]) -> Tensor | None:
        rows = [row.right for one, row in self.in_state(state).items() if counts(one)]
        return lowest(rows) if rows else None

    def headline(self) -> float:
        """Return the one figure: the lowest accuracy per picture, the share of the pictures that `robust` marks.

        Raises:
            ValueError: The report has no rows.
        """
        return self.robust().float().mean().item()

    def robust(self) -> Tensor:
        """Return which pictures withstood everything in the state in which the network is used, (N) bool.

        That is with the block on, or, where that was not judged, the only state there is. Where an exported graph
        was attacked too, what it did not withstand counts as well: it is what is served.

        Raises:
            ValueError: The report has no rows.
        """
        states: tuple[State, ...] = (self.state_in_use(), "exported graph")
        rows = [self._lowest_per_picture(state, lambda row: True) for state in states]
        present = [right for right in rows if right is not None]
        if not present:
            raise ValueError("a report without rows has no headline")
        return lowest(present)

    def headline_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the headline."""
        return interval_95(round(self.headline() * self.pictures()), self.pictures())

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON: the figures, and everything that they were made of."""
        lows = {state: self.lowest_of(state) for state in STATES}
        whole = {state: self.auto_attack(state) for state in STATES}
        difference = self.auto_difference()
        return {
            "format": FORMAT,
            "headline": {"lowest accuracy per picture": round(self.headline(), 4)},
            "headline_interval_95": _rounded(self.headline_interval()),
            "robustness_likely_overestimated": self.likely_overestimated,
            "lowest": {state: round(value, 4) for state, value in lows.items() if value is not None},
            "auto_attack": {state: round(value, 4) for state, value in whole.items() if value is not None},
            **({} if difference is None else {"auto_below_on_and_off": round(difference, 4)}),
            "rows": [
                {
                    "id": one.as_dict(),
                    "title": one.title,
                    "accuracy": round(row.accuracy, 4),
                    "interval_95": _rounded(row.interval),
                    "core_seconds": row.core_seconds,
                    "not_finite": row.not_finite,
                    "attack": row.attack,
                    "withstood": row.withstood,
                }
                for one, row in self.rows.items()
            ],
            BLOCK_EFFECT: self.block_effect,
            "checklist": self.checklist,
            "measured": self.measured,
            "setting": self.setting,
            "about": self.about,
            "earlier": [
                {"about": entry.about, "rows": [row.as_dict() for row in entry.rows]} for entry in self.earlier
            ],
        }

    def save(self, path: Path) -> None:
        """Save the report.

        Raises:
            WriteError: The file cannot be written; the old one is left as it was.
        """
        write_atomically(path, (json.dumps(self.as_dict(), indent=1) + "\n").encode())

    def take_over(self, path: Path, attacks: Sequence[AttackOn[Any]], fix: str = FIX) -> int:
        """Take what a saved report of the same setting has measured and this one has not.

        Rows of attacks that are not asked for now stay: they count, and measuring them again would cost what they cost.
        A row whose attack had other parameters then is measured again. One difference is allowed: the saved row may
        have spared fewer pictures that earlier rows had taken. Rows that stay keep their `about`.

        Args:
            path: The saved report; nothing is taken where there is no such file.
            attacks: The attacks that are asked for now.
            fix: The fix for a file that is not as it must be, for the message.

        Returns:
            How many of `attacks` are done by that.

        Raises:
            SavedReportError: The file is no report, or one of another setting; one line with the fix.
        """
        saved = read_saved(path, FORMAT, self.setting, fix)
        if saved is None:
            return 0
        try:
            rows, earlier = saved_rows(saved), _saved_earlier(saved)
            about, measured = dict(saved["about"]), dict(saved["measured"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise SavedReportError(
                f"{path}: a report whose rows cannot be read ({type(error).__name__}: {error}); {fix}"
            ) from None
        wanted = {attack.id: json_values(attack.parameters()) for attack in attacks}
        kept = {
            one: row
            for one, row in rows.items()
            if one not in self.rows and (one not in wanted or _covers(row.attack, wanted[one]))
        }
        self.rows |= kept
        named = {row for entry in earlier for row in entry.rows}
        earlier.append(Earlier(about, tuple(row for row in rows if row not in named)))
        for entry in earlier:
            left = tuple(row for row in entry.rows if row in kept)
            if left and entry.about != self.about:
                self.earlier.append(replace(entry, rows=left))
        self.measured = _both_measured(self.measured, measured)
        if self.block_effect is None:
            self.block_effect = saved.get(BLOCK_EFFECT)
        return len(wanted.keys() & kept.keys())

    def sort_rows(self, order: Iterable[RowId]) -> None:
        """Put the rows into this order, others behind them."""
        first = [row for row in dict.fromkeys(order) if row in self.rows]
        self.rows = {row: self.rows[row] for row in dict.fromkeys([*first, *self.rows])}

    def sort_measured(self) -> None:
        """Put the measurements into a fixed order, whichever was made first."""
        place = {name: number for number, name in enumerate(MEASURED)}
        self.measured = {
            name: self.measured[name] for name in sorted(self.measured, key=lambda name: place.get(name, len(place)))
        }
        if CURVE in self.measured:
            self.measured[CURVE] = dict(sorted(self.measured[CURVE].items(), key=lambda entry: float(entry[0])))

    def table(self) -> str:
        """Return the figures as Markdown, one row an attack, the states side by side.

        A dagger marks a row that was run only on what earlier ones had left: its figure is what was left after it.
        """
        states = self.states()
        attacks = dict.fromkeys(replace(row, state=states[0]) for row in self.rows)
        lines = []
        for attack in attacks:
            cells = [self.rows.get(replace(attack, state=state)) for state in states]
            marked = any(row is not None and "-" in row.withstood for row in cells)
            figures = [_percent(None if row is None else row.accuracy) for row in cells]
            lines.append([attack.title + " †" * marked, *figures])
        whole = [self.auto_attack(state) for state in states]
        if any(value is not None for value in whole):
            lines.append(["AutoAttack (the four together)", *map(_percent, whole)])
        lines.append(["**lowest, per picture**", *(f"**{_percent(self.lowest_of(state))}**" for state in states)])
        return table(["accuracy, %", *states], lines, "l" + "r" * len(states))


def saved_rows(saved: Mapping[str, Any]) -> dict[RowId, Row]:
    """Return the rows of a report that was read from JSON.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: They are not what Report.as_dict writes.
    """
    pictures = saved["setting"].get("pictures")
    rows = {}
    for entry in saved["rows"]:
        withstood = entry["withstood"]
        if not isinstance(withstood, str) or not withstood or set(withstood) - set("01-"):
            raise ValueError("a row's `withstood` must consist of 0, 1 and -")
        if pictures is not None and len(withstood) != pictures:
            raise ValueError(f"a row is of {len(withstood)} pictures, the report of {pictures}")
        rows[RowId.from_dict(entry["id"])] = Row(
            withstood,
            dict(entry["attack"]),
            entry["core_seconds"],
            None if entry["not_finite"] is None else int(entry["not_finite"]),
        )
    return rows


def _saved_earlier(saved: Mapping[str, Any]) -> list[Earlier]:
    return [Earlier(entry["about"], tuple(RowId.from_dict(row) for row in entry["rows"])) for entry in saved["earlier"]]


def _covers(done: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a saved row's attack is the wanted one, and was run on every picture of the wanted one."""
    spared_then, spared_now = (attack.get("survivors_of", []) for attack in (done, wanted))
    same = {**done, "survivors_of": None} == {**wanted, "survivors_of": None}
    return same and all(rows in spared_now for rows in spared_then)


def _both_measured(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return what either has measured, ours where both have; figures by name are merged name by name."""
    both = theirs | ours
    for name in ours.keys() & theirs.keys():
        if isinstance(ours[name], dict) and isinstance(theirs[name], dict):
            both[name] = theirs[name] | ours[name]
    return both


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back: lists for tuples."""
    loaded: dict[str, Any] = json.loads(json.dumps(values))
    return loaded


def _percent(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]
