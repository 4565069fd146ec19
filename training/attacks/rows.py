"""Name the rows of a report."""

from typing import Any, Literal

from training.attacks.base import AttackOn


def row_key(attack: AttackOn[Any]) -> str:
    """An attack's name in the report: state and attack."""
    return f"{attack.state}: {attack.name}"


Kind = Literal["clean", "white-box", "adaptive", "transfer", "black-box"]


MORE_STEPS = "CW-200, on what withstood CW-100"


MORE_RESTARTS = "CW-20, restarts 11 to 20"


def kind_of(row: str) -> Kind:
    """What sort of attack a row of a report is, by its name without the block state."""
    if row == "clean":
        return "clean"
    if "transfer from" in row:
        return "transfer"
    if row.startswith(("Square", "random noise")):
        return "black-box"
    return "adaptive" if "surrogate" in row or "straight-through" in row else "white-box"
