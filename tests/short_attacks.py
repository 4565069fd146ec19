"""Validation and the checks of a report in one step, where no test says anything of what they find.

They take most of the time of a tiny run or report.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

SHORT = 1
"""Steps of each of these attacks. That they take several is tested where their own figures are."""
DIRECTIONS = 3
"""Directions in which gradients are checked: with two, any slopes correlate."""


def shorten(set_attribute: Callable[[object, str, int], None] = setattr) -> None:
    """Make the attacks of validation and the checks of a report short in this process.

    Args:
        set_attribute: Sets an attribute of a module, as setattr does.
    """
    from training.evaluate.diagnostics import accuracy_curve, gradient_check, slow_down
    from training.loop import validation

    set_attribute(validation, "_STEPS", SHORT)
    set_attribute(accuracy_curve, "STEPS", SHORT)
    set_attribute(slow_down, "STEPS", SHORT)
    set_attribute(slow_down, "UNIVERSAL_STEPS", SHORT)
    set_attribute(gradient_check, "DIRECTIONS", DIRECTIONS)


def shorten_gradient_attacks(set_attribute: Callable[[object, str, Any], None]) -> None:
    """Make attacks along gradients take two steps at most, in this process. Their rows keep their names.

    Args:
        set_attribute: Sets an attribute of a class, as setattr does.
    """
    from training.attacks.gradient_attack import Attack

    perturb = Attack.perturb

    def few_steps(self: Attack, *given: Any) -> Any:
        return perturb(replace(self, steps=min(self.steps, 2)), *given)

    set_attribute(Attack, "perturb", few_steps)
