"""Identify the rows of a report, and select rows by what they are."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

View = Literal["full", "held", "first-pass", "block-on", "smooth", "straight-through"]
"""The view of the network whose derivatives an attack follows; training.attacks.views has the functions."""

State = Literal["block on", "block off", "auto", "exported graph"]
"""The target of an attack: the network with its block on, off or on where it is needed, or its exported graph. A column
of the table."""

STATES: tuple[State, ...] = get_args(State)

Kind = Literal["clean", "white-box", "adaptive", "transfer", "black-box"]
"""The knowledge that an attack has of the network; the masking checklist compares the kinds."""

Family = Literal[
    "clean",
    "fgsm",
    "pgd",
    "cw",
    "apgd-ce",
    "apgd-t",
    "fab-t",
    "square",
    "malt",
    "md",
    "pma",
    "noise",
    "gate-both",
    "gate-off",
    "gate-on",
]
"""The algorithm: "cw" is PGD on Carlini and Wagner's margin loss, "noise" draws random points of the ball. "malt" is
APGD at the nearest classes (training.attacks.malt). "md" and "pma" decompose a margin
(training.attacks.margin_decomposition). Those of the gate know the threshold of self_gradient=auto; see
training.attacks.gate."""

GATE: tuple[Family, ...] = ("gate-both", "gate-off", "gate-on")

AUTO_ATTACK: tuple[Family, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""AutoAttack's four, in its order."""

_TITLES: dict[Family, str] = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd": "PGD-{steps}",
    "cw": "CW-{steps}",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    "malt": "MALT, nearest {steps}",
    "md": "MD",
    "pma": "PMA",
    "noise": "random noise, {steps} draws",
    "gate-both": "both sides of the threshold, {steps} steps",
    "gate-off": "wrong class first, over the threshold, {steps} steps",
    "gate-on": "under the threshold, second pass wrong, {steps} steps",
}
_WITH_STEPS: tuple[Family, ...] = ("pgd", "cw", "malt", "noise", *GATE)
_VIEW_TITLES: dict[View, str] = {
    "full": "through both passes",
    "first-pass": "transfer from block off",
    "block-on": "transfer from block on",
    "smooth": "smooth surrogate",
    "straight-through": "straight-through block",
}


@dataclass(frozen=True)
class RowId:
    """The identity of a report's row: two rows are the same if and only if all of these are equal.

    Attributes:
        state: The target of the attack.
        family: The algorithm.
        steps: Steps of PGD and CW, classes that MALT attacks, draws of random noise; None for the others, which always
            take as many.
        view: How the gradients see the network.
        beta: Softplus sharpness of the smooth and the straight-through view, None for the others.
        averaged: Whether gradients are means over noisy copies of the image.
        restarts: Numbers of the first and the last restart, where the row has a share of them.
        to_the_end: Whether the last iterate is taken, although an earlier one may have fooled the network.
        after_steps: Steps of the same attack whose survivors alone this row attacks.
        source: Title of another network, where the pictures were made on that one.
    """

    state: State
    family: Family
    steps: int | None = None
    view: View = "held"
    beta: float | None = None
    averaged: bool = False
    restarts: tuple[int, int] | None = None
    to_the_end: bool = False
    after_steps: int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        """Check the combination.

        Raises:
            ValueError: The fields contradict each other, so that the title could not tell the row from others.
        """
        if (self.steps is not None) != (self.family in _WITH_STEPS):
            raise ValueError(f"a row of family {self.family!r} cannot have steps {self.steps!r}")
        if (self.beta is not None) != (self.view in ("smooth", "straight-through")):
            raise ValueError(f"a row of view {self.view!r} cannot have beta {self.beta!r}")

    @property
    def kind(self) -> Kind:
        """The knowledge that the attack has of the network."""
        if self.family == "clean":
            return "clean"
        if self.source is not None or self.view in ("first-pass", "block-on"):
            return "transfer"
        if self.family in ("square", "noise"):
            return "black-box"
        return "adaptive" if self.view in ("smooth", "straight-through") or self.family in GATE else "white-box"

    @property
    def needs_block(self) -> bool:
        """Whether the attack exists only for a network that has a block."""
        return self.view != "held" or self.state == "auto"

    @property
    def is_plain(self) -> bool:
        """Whether the attack is nothing but its family and its number of steps."""
        return self == RowId(self.state, self.family, self.steps)

    @property
    def title(self) -> str:
        """The row's name for people, without its state; unique within a state."""
        name = _TITLES[self.family].format(steps=self.steps)
        parts = [name + " to the end" * self.to_the_end]
        if self.view == "smooth" and self.averaged:
            parts.append("smooth surrogate averaged over noise")
        else:
            if self.view in _VIEW_TITLES:
                parts.append(_VIEW_TITLES[self.view])
            if self.averaged:
                parts.append("gradients averaged over noise")
        if self.beta is not None:
            parts.append(f"beta {self.beta:g}")
        if self.restarts is not None:
            parts.append(f"restarts {self.restarts[0]} to {self.restarts[1]}")
        if self.after_steps is not None:
            parts.append(f"on what withstood {_TITLES[self.family].format(steps=self.after_steps)}")
        if self.source is not None:
            parts.append(f"transfer from {self.source}")
        return ", ".join(parts)

    @property
    def label(self) -> str:
        """State and title, for a progress bar or a message."""
        return f"{self.state}: {self.title}"

    def as_dict(self) -> dict[str, Any]:
        """Return the identity for JSON: state, family, and every other field that is not at its default."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default or field.default is MISSING
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RowId":
        """Return the identity that as_dict wrote.

        Raises:
            TypeError: A field is missing or unknown.
            ValueError: A value is none that the field can have.
        """
        restarts = values.get("restarts")
        row = cls(**{**values, "restarts": None if restarts is None else (int(restarts[0]), int(restarts[1]))})
        for value, allowed in ((row.state, State), (row.family, Family), (row.view, View)):
            if value not in get_args(allowed):
                raise ValueError(f"{value!r} is none of {', '.join(get_args(allowed))}")
        return row


@dataclass(frozen=True)
class RowFilter:
    """A predicate on rows: every named field must have the given value. The state does not count.

    Attributes:
        wanted: Names of RowId's fields, in its order, with the values that a row must have.
    """

    wanted: tuple[tuple[str, Any], ...]

    @classmethod
    def like(cls, **values: Any) -> "RowFilter":
        """Return the filter for rows whose fields have these values, whatever their other fields are.

        Raises:
            TypeError: RowId has no field of that name.
        """
        order = [field.name for field in fields(RowId)]
        unknown = values.keys() - set(order)
        if unknown:
            raise TypeError(f"RowId has no field {', '.join(sorted(unknown))}")
        return cls(tuple((name, values[name]) for name in order if name in values))

    @classmethod
    def exactly(cls, row: RowId) -> "RowFilter":
        """Return the filter for this row in any state."""
        values = asdict(row)
        del values["state"]
        return cls.like(**values)

    def matches(self, row: RowId) -> bool:
        """Tell whether the row has every wanted value."""
        return all(getattr(row, name) == value for name, value in self.wanted)

    def as_dict(self) -> dict[str, Any]:
        """Return the wanted values by field, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.wanted}


CLEAN = RowFilter.like(family="clean")
AUTO_ATTACK_ROWS = tuple(RowFilter.like(family=family, view="held") for family in AUTO_ATTACK)
"""AutoAttack's rows in its order, without those through the smooth surrogate."""


def any_matches(filters: Iterable[RowFilter], row: RowId) -> bool:
    """Tell whether one of the filters matches the row."""
    return any(one.matches(row) for one in filters)


def more_steps_row(state: State) -> RowId:
    """Return the row that shows whether more steps find more: CW-200 on what withstood CW-100."""
    return RowId(state, "cw", steps=200, after_steps=100)


def more_restarts_row(state: State) -> RowId:
    """Return the row that shows whether more restarts find more: CW-20, restarts 11 to 20."""
    return RowId(state, "cw", steps=20, restarts=(11, 20))
